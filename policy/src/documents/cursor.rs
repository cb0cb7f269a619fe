//! A walk through a tree that knows where it is, so that an error can name the field. The path costs nothing until
//! an error wants it.

use std::fmt;

use super::{fault::Fault, node::Node};

/// A step of a path.
#[derive(Clone, Copy)]
enum Step<'p> {
    Root,
    Key(&'p str),
    Index(usize),
}

/// Where a value stands.
#[derive(Clone, Copy)]
pub struct At<'p> {
    parent: Option<&'p At<'p>>,
    step: Step<'p>,
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.step {
            Step::Root => Ok(()),
            Step::Index(index) => write!(f, "[{index}]"),
            Step::Key(key) if key.contains(['.', '/']) => write!(f, "[{key}]"),
            Step::Key(key) if self.parent.is_none_or(|p| matches!(p.step, Step::Root)) => {
                f.write_str(key)
            }
            Step::Key(key) => write!(f, ".{key}"),
        }
    }
}

/// A fault at a field.
#[derive(Debug)]
pub struct FieldFault {
    /// Path of the field.
    pub field: String,
    /// What is wrong there.
    pub fault: Fault,
}

/// A reading of one field.
pub type Result<T> = std::result::Result<T, FieldFault>;

/// A value and where it stands.
#[derive(Clone, Copy)]
pub struct Cursor<'n, 'p> {
    /// The value.
    pub node: Node<'n>,
    at: At<'p>,
}

impl<'n, 'p> Cursor<'n, 'p> {
    /// The cursor at the root of a tree.
    pub const fn root(node: Node<'n>) -> Self {
        Self {
            node,
            at: At {
                parent: None,
                step: Step::Root,
            },
        }
    }

    /// A fault of this value.
    pub fn fault(&self, fault: impl Into<Fault>) -> FieldFault {
        FieldFault {
            field: self.at.to_string(),
            fault: fault.into(),
        }
    }

    /// The fault that a key is not there.
    pub fn missing(&self, key: &str, expected: &'static str) -> FieldFault {
        let at = At {
            parent: Some(&self.at),
            step: Step::Key(key),
        };
        FieldFault {
            field: at.to_string(),
            fault: Fault::Missing(expected),
        }
    }

    /// The path from the root, as errors name it.
    pub fn path(&self) -> String {
        self.at.to_string()
    }

    fn wrong(&self, expected: &'static str) -> FieldFault {
        self.fault(Fault::WrongType {
            expected,
            found: self.node.kind(),
        })
    }

    /// The value under a key; `null` is absent, a repeated key a fault, anything but a mapping too.
    pub fn get<'c>(&'c self, key: &'c str) -> Result<Option<Cursor<'n, 'c>>> {
        let mut found = None;
        for (own, node) in self.node.entries().ok_or_else(|| self.wrong("a mapping"))? {
            if own == key {
                let cursor = Cursor {
                    node,
                    at: At {
                        parent: Some(&self.at),
                        step: Step::Key(key),
                    },
                };
                if found.replace(cursor).is_some() {
                    return Err(cursor.fault(Fault::Twice));
                }
            }
        }
        Ok(found.filter(|cursor| !cursor.node.is_null()))
    }

    /// The entries of a mapping.
    pub fn entries<'c>(
        &'c self,
    ) -> Result<impl Iterator<Item = (&'n str, Cursor<'n, 'c>)> + use<'c, 'n, 'p>> {
        let entries = self.node.entries().ok_or_else(|| self.wrong("a mapping"))?;
        Ok(entries.map(|(key, node)| {
            (
                key,
                Cursor {
                    node,
                    at: At {
                        parent: Some(&self.at),
                        step: Step::Key(key),
                    },
                },
            )
        }))
    }

    /// The values of a list.
    pub fn items<'c>(&'c self) -> Result<impl Iterator<Item = Cursor<'n, 'c>> + use<'c, 'n, 'p>> {
        let items = self.node.items().ok_or_else(|| self.wrong("a list"))?;
        Ok(items.enumerate().map(|(index, node)| Cursor {
            node,
            at: At {
                parent: Some(&self.at),
                step: Step::Index(index),
            },
        }))
    }

    /// Text; a number or a boolean is a fault.
    pub fn text(&self) -> Result<&'n str> {
        self.node.text().ok_or_else(|| self.wrong("text"))
    }

    /// A whole number in a range, both ends included.
    pub fn int(&self, first: i64, last: i64) -> Result<i64> {
        match self.node.int() {
            Some(value) if (first..=last).contains(&value) => Ok(value),
            Some(value) => Err(self.fault(Fault::Range { value, first, last })),
            None => Err(self.wrong("a whole number")),
        }
    }

    /// Text, or a scalar that someone forgot to quote.
    pub fn scalar(&self) -> Result<String> {
        self.node.scalar().ok_or_else(|| self.wrong("text"))
    }

    /// The fault that a word is none of the known ones.
    pub fn unknown(&self, value: &str, expected: &'static str) -> FieldFault {
        self.fault(Fault::Unknown {
            value: value.chars().take(64).collect(),
            expected,
        })
    }
}
