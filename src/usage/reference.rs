//! A payment method is kept as the reference that a payment provider gave for it, never as a card's number.

/// Card numbers have from 12 to 19 digits.
const SHORTEST: usize = 12;
const LONGEST: usize = 19;

/// Why a text is no reference, if it is none.
pub fn fault(text: &str) -> Option<&'static str> {
    if text.is_empty() || text.len() > 255 {
        return Some("A reference has from 1 to 255 bytes.");
    }
    if text.chars().any(char::is_control) {
        return Some("A reference has no control characters.");
    }
    looks_like_card(text).then_some("It looks like a card number, which must not be stored here.")
}

/// Whether a card's number may stand in the text: digits alone, as many as a card has, or a run of them that carries a
/// card's check digit. Blanks, dots and dashes between digits do not hide it.
fn looks_like_card(text: &str) -> bool {
    let mut run = Vec::new();
    let mut gap = false;
    let mut alone = true;
    for c in text.chars() {
        if let Some(digit) = c.to_digit(10) {
            run.push(digit);
            gap = false;
        } else {
            let separates = matches!(c, ' ' | '-' | '.' | '\u{a0}' | '\u{2013}');
            alone &= separates;
            // Two in a row, or anything else, ends a run.
            if !separates || gap {
                if holds_card(&run) {
                    return true;
                }
                run.clear();
            }
            gap = separates;
        }
    }
    let digits = text.chars().filter(char::is_ascii_digit).count();
    holds_card(&run) || alone && (SHORTEST..=LONGEST).contains(&digits)
}

/// Whether some part of a run of digits is a valid card number: of its length, of an issuer's first digit, and with the
/// check digit. A longer run is a number of another kind, as identifiers are.
fn holds_card(run: &[u32]) -> bool {
    (SHORTEST + 1..=LONGEST).contains(&run.len()) && (2..=6).contains(&run[0]) && checks(run)
}

/// The Luhn sum: every second digit from the right doubled, the digits of all added.
fn checks(digits: &[u32]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(i, digit)| match i % 2 {
            0 => *digit,
            _ if *digit > 4 => digit * 2 - 9,
            _ => digit * 2,
        })
        .sum();
    sum.is_multiple_of(10)
}

#[cfg(test)]
mod tests {
    use super::fault;

    #[test]
    fn references_are_taken() {
        for reference in [
            "pm_1NxYzK2eZvKYlo2C0aBcDeFg",
            "tok-8f14e45fceea167a",
            "BA-12345",
            "12345678901",
            "mandate 2024-00017",
            "1f0e3dad-9990-4345-9a7e-1a2b3c4d5e6f",
            "cus_4242424242424241",
        ] {
            assert_eq!(fault(reference), None, "{reference}");
        }
    }

    #[test]
    fn cards_are_not() {
        for card in [
            "4242424242424242",
            "4242 4242 4242 4242",
            "4242-4242-4242-4242",
            "card:4242424242424242",
            "378282246310005",
            "visa 4000.0566.5566.5556 exp 12/30",
            "6011111111111117",
            // Digits alone, whatever their sum.
            "4242424242424241",
            "123456789012",
        ] {
            assert!(fault(card).is_some(), "{card}");
        }
        assert!(fault("").is_some());
        assert!(fault("a\nb").is_some());
        assert!(fault(&"x".repeat(256)).is_some());
    }
}
