//! Tables, JSON and YAML.

use std::io::{self, Write as _};

use serde::Serialize;

use crate::args::Format;
use crate::error::Error;

/// Columns of left-aligned text; the last one may be as long as it likes.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(header: &[&str]) -> Self {
        Self {
            rows: vec![header.iter().map(ToString::to_string).collect()],
        }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.len() < 2
    }

    fn text(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns)
            .map(|c| {
                self.rows
                    .iter()
                    .filter_map(|r| r.get(c))
                    .map(|s| s.chars().count())
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(&format!("{cell:width$}   "));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Prints a value in the format asked for; `table` makes the one for people.
pub(crate) fn print<T: Serialize>(
    format: Format,
    value: &T,
    table: impl FnOnce() -> String,
) -> Result<(), Error> {
    let text = match format {
        Format::Json => {
            serde_json::to_string_pretty(value).map_err(|e| Error::Encode(e.to_string()))? + "\n"
        }
        Format::Yaml => serde_norway::to_string(value).map_err(|e| Error::Encode(e.to_string()))?,
        Format::Table | Format::Wide => table(),
    };
    self::text(&text)
}

/// Prints text as it is.
pub(crate) fn text(text: &str) -> Result<(), Error> {
    Ok(io::stdout().lock().write_all(text.as_bytes())?)
}

/// A table as text, or a sentence where it has no rows.
pub(crate) fn or_sentence(table: &Table, sentence: &str) -> String {
    if table.is_empty() {
        format!("{sentence}\n")
    } else {
        table.text()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_without_trailing_blanks() {
        let mut t = Table::new(&["A", "LONGER"]);
        t.row(["wide cell".into(), "x".into()]);
        assert_eq!(
            or_sentence(&t, "none"),
            "A           LONGER\nwide cell   x\n"
        );
        assert_eq!(or_sentence(&Table::new(&["A"]), "none"), "none\n");
    }
}
