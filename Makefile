# Every target sets up what it needs first (tools/setup; nothing to do on a second run).
# Another server: make test PG_CONFIG=/usr/lib/postgresql/16/bin/pg_config
# Some black-box tests only: make test ARGS=owner (the arguments of cargo test)

export PG_CONFIG
export ARGS
.PHONY: help setup demo test install installcheck bench lint package clean
.DEFAULT_GOAL := help

help:      ## this list
	@sed -n 's/^\([a-z]*\): .*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 22

setup:     ## installs what is missing: PostgreSQL, compiler, cargo-pgrx
	@tools/setup

demo: install      ## the worked example: a cloud panel, two orgs, every rule tried
	@examples/cloud_panel/demo

test: setup      ## installs the extension, then unit, black-box and in-server tests, demo
	@tools/test

install: setup      ## builds the extension and installs it into the server of PG_CONFIG
	@tools/install

installcheck: setup      ## black-box tests against the installed extension; builds only them
	@tools/blackbox

bench: install      ## the ratios of the speed table
	@if [ -x bench/run ]; then bench/run; else echo 'make bench: the benchmark comes with the next version.' >&2; exit 1; fi

lint: setup      ## formatting and clippy, warnings are errors
	@tools/lint

package: setup      ## builds the files of an installation under target/package, installs nothing
	@tools/package

clean:     ## removes what was built (the tools in .tools stay)
	@rm -rf target
