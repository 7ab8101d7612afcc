# shellcheck shell=bash
# The words the walk is written in. Each step shows its statements, runs them as the panel's login in one transaction,
# shows the answer or the full error, and checks it. The first check that does not hold ends the demo.

width=78
checks=0
chapters=()
begun=$SECONDS
# psql variables with the ids of the example's users and organizations, so that a statement can say :'ben'.
ids=()

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
  bold=$'\e[1m' dim=$'\e[2m' green=$'\e[32m' red=$'\e[31m' off=$'\e[0m'
else
  bold='' dim='' green='' red='' off=''
fi

# wrap N [M]: folds to the width, the first line indented by M (0), the others by N.
wrap() {
  local later=$1 first=${2:-0}
  fold -s -w $((width - later)) |
    sed -e 's/ *$//' -e "2,\$s/^./$(printf '%*s' "$later" '')&/" -e "1s/^./$(printf '%*s' "$first" '')&/"
}
prose() { printf '\n' && wrap 0 <<<"$*"; }
indent() { wrap 4 4; }

# chapter TITLE: a new heading; how many checks each held is summed up at the end.
chapter() {
  chapters+=("$checks|$1")
  printf '\n%s%s%s\n%s\n' "$bold" "$1" "$off" "$(printf '%*s' ${#1} '' | tr ' ' '-')"
}

held() {
  checks=$((checks + 1))
  printf '  %sok%s %s\n' "$green" "$off" "$1"
}

broken() {
  printf '\n%sNOT HELD%s: %s\n' "$red" "$off" "$1" >&2
  shift
  [ $# = 0 ] || printf '%s\n' "$@" | indent >&2
  printf 'The demo stops here, after %d checks that held.\n' "$checks" >&2
  exit 1
}

# run USER ORG: the statements on standard input, as the panel's login, in one transaction for that user and org
# ("-" names none); rolled back unless keep is set. Leaves the answer in $answer (with every field
# of an error in $raw) and the first SQLSTATE in $state.
run() {
  local user=$1 org=$2 end=ROLLBACK
  [ -z "${keep:-}" ] || end=COMMIT
  answer=$({
    echo 'BEGIN;'
    [ "$org" = - ] || printf "SET LOCAL app.current_org = '%s';\n" "$org"
    [ "$user" = - ] || printf "SET LOCAL app.current_user_id = '%s';\n" "$user"
    echo '\set QUIET off'
    cat
    # Deferred checks belong to the statement that the reader saw.
    printf '\n\\set QUIET on\nSET CONSTRAINTS ALL IMMEDIATE;\n%s;\n' "$end"
  } | sql panel_app "${ids[@]}" --pset=format=wrapped --pset=columns=$((width - 4)) ${plain:+-At} 2>&1)
  state=$(sed -n 's/^\(ERROR\|FATAL\):  \([0-9A-Z]\{5\}\):.*/\2/p' <<<"$answer" | head -n 1)
  raw=$answer
  # Where in PostgreSQL's or our source an error was raised is nothing for a reader.
  answer=$(grep -v '^LOCATION:  ' <<<"$answer" | sed -e :a -e '/^\n*$/{$d;N;ba' -e '}')
}

# Shows and runs; $1 is the user, $2 the org.
shown() {
  local statements who=$1
  statements=$(cat)
  [ "$who" = - ] && who='nobody named'
  printf '\n  %s[%s, org %s%s]%s\n' "$dim" "$who" "${2/#-/not set}" "${keep:+, committed}" "$off"
  printf '%s\n' "$statements" | sed "s/^./    $bold&/; s/\$/$off/"
  run "$1" "$2" <<<"$statements"
  printf '%s\n' "$answer" | indent
}

# answers 'LAST LINE' 'WHAT HELD' USER ORG <<SQL: no error, and the answer ends with this line, such as "(3 rows)".
answers() {
  local wanted=$1 title=$2 last
  shown "$3" "$4"
  last=$(sed '/^ *$/d' <<<"$answer" | tail -n 1)
  [ -z "$state" ] || broken "$title" "expected: $wanted" "got SQLSTATE $state"
  [ "$last" = "$wanted" ] || broken "$title" "expected the last line: $wanted" "got: $last"
  held "$title"
}

# refused SQLSTATE 'WHAT HELD' USER ORG <<SQL: exactly this error.
refused() {
  local wanted=$1 title=$2
  shown "$3" "$4"
  [ "$state" = "$wanted" ] || broken "$title" "expected SQLSTATE $wanted, got: ${state:-no error}"
  held "$title"
}

# same WHAT GOT WANTED
same() {
  [ "$2" = "$3" ] || broken "$1" "expected:" "$3" "got:" "$2"
  held "$1"
}

# scalar USER ORG <<SQL: the answer as plain text for a comparison, not shown. An error is text too and compares unequal.
scalar() {
  local plain=yes
  run "$1" "$2"
  printf '%s\n' "$answer"
}

summary() {
  local i title from to
  printf '\n%sSummary%s\n-------\n' "$bold" "$off"
  for i in "${!chapters[@]}"; do
    # What was checked before the first chapter counts there.
    from=$((i == 0 ? 0 : ${chapters[i]%%|*})) title=${chapters[i]#*|} to=$checks
    [ $((i + 1)) -lt ${#chapters[@]} ] && to=${chapters[i + 1]%%|*}
    printf '  %-62s %3d held\n' "$title" $((to - from))
  done
  printf '\n%s%d checks, all held, in %d s.%s\n' "$green" "$checks" $((SECONDS - begun)) "$off"
}
