//! Duration strings as Go's `time.ParseDuration` reads them, because that is what users of CNI configurations write.

use std::time::Duration;

/// Why a text is not a duration that one can wait for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No number, or a character that belongs to neither number nor unit.
    #[error("parse duration {0:?}: write numbers with units, such as 2s, 300ms or 1m30s")]
    Syntax(String),
    /// A number without a unit; only `0` may stand alone.
    #[error("parse duration {0:?}: a unit is missing after the number (ns, us, ms, s, m or h)")]
    MissingUnit(String),
    /// A unit that Go does not know.
    #[error("parse duration {text:?}: unknown unit {unit:?} (known: ns, us, ms, s, m and h)")]
    UnknownUnit {
        /// The whole text.
        text: String,
        /// The unit found in it.
        unit: String,
    },
    /// Below zero.
    #[error("parse duration {0:?}: it is negative, and nobody can wait for that")]
    Negative(String),
    /// More than Go's 64 bits of nanoseconds hold (about 292 years).
    #[error("parse duration {0:?}: it is longer than 292 years")]
    Overflow(String),
}

/// Parses `1h2m3.5s`, `300ms`, `0`, `+2s`, ... exactly as Go does, but for negative ones, which are an error.
///
/// # Errors
/// Every text that Go refuses, and negative durations.
pub fn parse(text: &str) -> Result<Duration, Error> {
    let owned = || text.to_owned();
    let negative = text.starts_with('-');
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(Error::Syntax(owned()));
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let (whole, after) = split_digits(rest);
        let (fraction, after) = after.strip_prefix('.').map_or(("", after), split_digits);
        if whole.is_empty() && fraction.is_empty() {
            return Err(Error::Syntax(owned()));
        }
        let end = after
            .find(|c: char| c == '.' || c.is_ascii_digit())
            .unwrap_or(after.len());
        let (name, tail) = after.split_at(end);
        let unit = match name {
            "" => return Err(Error::MissingUnit(owned())),
            name => unit_nanos(name).ok_or_else(|| Error::UnknownUnit {
                text: owned(),
                unit: name.to_owned(),
            })?,
        };
        total = nanos(whole, fraction, unit)
            .and_then(|part| total.checked_add(part))
            .filter(|sum| *sum <= i64::MAX.unsigned_abs())
            .ok_or_else(|| Error::Overflow(owned()))?;
        rest = tail;
    }
    if negative && total > 0 {
        return Err(Error::Negative(owned()));
    }
    Ok(Duration::from_nanos(total))
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(
        text.find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len()),
    )
}

fn unit_nanos(name: &str) -> Option<u64> {
    Some(match name {
        "ns" => 1,
        // Both code points that look like a micro sign, as Go accepts them.
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

/// `whole.fraction` units in nanoseconds, rounded down; `None` when it does not fit.
fn nanos(whole: &str, fraction: &str, unit: u64) -> Option<u64> {
    let whole = if whole.is_empty() {
        0
    } else {
        whole.parse::<u64>().ok()?
    };
    let mut part = 0u64;
    let mut scale = unit;
    // Digit by digit the weight shrinks to nothing: no fraction is too long, and what is below a nanosecond is lost.
    for digit in fraction.bytes() {
        part = part.checked_add(scale.checked_mul(u64::from(digit - b'0'))? / 10)?;
        scale /= 10;
    }
    whole.checked_mul(unit)?.checked_add(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_go_reads() {
        for (text, millis) in [
            ("0", 0),
            ("0s", 0),
            ("-0", 0),
            ("2s", 2_000),
            ("+2s", 2_000),
            ("300ms", 300),
            ("1m30s", 90_000),
            ("1.5h", 5_400_000),
            (".5s", 500),
            ("5.s", 5_000),
            ("1h0m0.25s", 3_600_250),
            ("2000us", 2),
            ("2000\u{b5}s", 2),
            ("2000\u{3bc}s", 2),
            ("3000000ns", 3),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(
            parse("0.1234567899s"),
            Ok(Duration::from_nanos(123_456_789))
        );
    }

    #[test]
    fn refuses_what_go_refuses_and_negative_ones() {
        for text in [
            "",
            "+",
            "-",
            "s",
            ".s",
            "2",
            "2 s",
            "two",
            "1e3s",
            "2s ",
            "2x",
            "2S",
            "1d",
            "3..5s",
            "-2s",
            "+-2s",
            "99999999999h",
            "18446744073709551616ns",
        ] {
            assert!(parse(text).is_err(), "{text:?} should be refused");
        }
        assert_eq!(parse("2"), Err(Error::MissingUnit("2".into())));
        assert_eq!(parse("-2s"), Err(Error::Negative("-2s".into())));
        assert_eq!(
            parse("2d"),
            Err(Error::UnknownUnit {
                text: "2d".into(),
                unit: "d".into()
            })
        );
    }
}
