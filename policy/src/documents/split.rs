//! Cuts a YAML stream at its document marks *before* anything is parsed, so that a syntax error in one document does
//! not reach the next.
//!
//! A line that begins with `---` or `...` and then ends or goes on with a blank is a mark wherever it stands: YAML 1.2
//! (9.1.2, `c-forbidden`) lets no scalar hold such a line.

/// The documents of a stream, without those that hold nothing but blanks and comments.
pub fn documents(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut start = 0;
    let mut position = 0;
    for line in text.split_inclusive('\n') {
        let mark = is_mark(line, "---");
        if mark || is_mark(line, "...") {
            parts.push(&text[start..position]);
            // What stands behind `---` on its line belongs to the document.
            start = position + if mark { 3 } else { line.len() };
        }
        position += line.len();
    }
    parts.push(&text[start..]);
    parts.retain(|part| !is_blank(part));
    parts
}

fn is_mark(line: &str, mark: &str) -> bool {
    line.strip_prefix(mark)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

/// Blanks, comments and directives only.
fn is_blank(part: &str) -> bool {
    part.lines().all(|line| {
        let line = line.trim();
        line.is_empty() || line.starts_with('#') || line.starts_with('%')
    })
}

/// How deep brackets are nested, at most. Those in quotes and comments count too: they mostly come in pairs.
pub fn nesting(part: &str) -> usize {
    let (mut depth, mut deepest) = (0usize, 0);
    for byte in part.bytes() {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => continue,
        }
        deepest = deepest.max(depth);
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::documents;

    #[test]
    fn marks() {
        assert!(documents("").is_empty());
        assert!(documents("# nothing\n---\n---\n# nothing\n...\n").is_empty());
        assert_eq!(documents("a: 1\n---\nb: 2\n"), ["a: 1\n", "\nb: 2\n"]);
        assert_eq!(
            documents("--- # first\na: 1\n--- {b: 2}\n...\n"),
            [" # first\na: 1\n", " {b: 2}\n"]
        );
        assert_eq!(
            documents("%YAML 1.2\n---\r\na: 1\r\n---\r\nb: 2"),
            ["\r\na: 1\r\n", "\r\nb: 2"]
        );
        assert_eq!(
            documents("a: |\n  ---\n  x\n----\n"),
            ["a: |\n  ---\n  x\n----\n"]
        );
    }
}
