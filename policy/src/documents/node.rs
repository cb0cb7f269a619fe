//! A document as a tree on one tape, borrowed from its text where that is possible, with a budget against YAML bombs.

use std::{borrow::Cow, cell::Cell, fmt};

use super::merge;
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

/// A value, or the head of one: what a list or a mapping holds follows it, up to the token numbered `end`. A mapping's
/// keys are texts before their values.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token<'a> {
    Null,
    Bool(bool),
    Int(i64),
    /// A float, or an integer beyond i64: nothing that a policy document holds.
    Number,
    Text(Cow<'a, str>),
    List {
        end: usize,
    },
    Map {
        end: usize,
    },
}

impl Token<'_> {
    /// Number of the token behind the value that this one begins at `at`.
    pub(super) fn end(&self, at: usize) -> usize {
        match self {
            Self::List { end } | Self::Map { end } => *end,
            _ => at + 1,
        }
    }

    /// The same, where what began at `from` begins at `to`.
    pub(super) fn moved(mut self, from: usize, to: usize) -> Self {
        if let Self::List { end } | Self::Map { end } = &mut self {
            *end = *end - from + to;
        }
        self
    }
}

/// The tape of one document.
#[derive(Default)]
pub struct Tree<'a>(Vec<Token<'a>>);

impl<'a> Tree<'a> {
    /// Reads one value of JSON.
    pub fn read<D: Deserializer<'a>>(deserializer: D, budget: &Budget) -> Result<Self, D::Error> {
        Self::read_with(deserializer, budget, false)
    }

    /// Reads one value of YAML, where `<<` is a merge key.
    pub fn read_yaml<D: Deserializer<'a>>(
        deserializer: D,
        budget: &Budget,
    ) -> Result<Self, D::Error> {
        Self::read_with(deserializer, budget, true)
    }

    fn read_with<D: Deserializer<'a>>(
        deserializer: D,
        budget: &Budget,
        merges: bool,
    ) -> Result<Self, D::Error> {
        let mut tree = Self::default();
        Seed {
            tokens: &mut tree.0,
            budget,
            merges,
        }
        .deserialize(deserializer)?;
        Ok(tree)
    }

    /// The whole value.
    pub fn root(&self) -> Node<'_> {
        Node {
            tokens: &self.0,
            at: 0,
        }
    }
}

/// A value on a tape.
#[derive(Clone, Copy)]
pub struct Node<'t> {
    tokens: &'t [Token<'t>],
    at: usize,
}

impl<'t> Node<'t> {
    fn token(self) -> &'t Token<'t> {
        self.tokens.get(self.at).unwrap_or(&Token::Null)
    }

    /// Number of the token behind this value.
    fn end(self) -> usize {
        self.token().end(self.at)
    }

    /// The type, as errors name it.
    pub fn kind(self) -> &'static str {
        match self.token() {
            Token::Null => "nothing",
            Token::Bool(_) => "true or false",
            Token::Int(_) => "a whole number",
            Token::Number => "a number out of range or with a fraction",
            Token::Text(_) => "text",
            Token::List { .. } => "a list",
            Token::Map { .. } => "a mapping",
        }
    }

    /// Whether it is `null`.
    pub fn is_null(self) -> bool {
        matches!(self.token(), Token::Null)
    }

    /// Text, if it is text.
    pub fn text(self) -> Option<&'t str> {
        match self.token() {
            Token::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A whole number, if it is one.
    pub fn int(self) -> Option<i64> {
        match self.token() {
            Token::Int(value) => Some(*value),
            _ => None,
        }
    }

    /// Text, or a scalar that someone forgot to quote.
    pub fn scalar(self) -> Option<String> {
        match self.token() {
            Token::Text(text) => Some(text.to_string()),
            Token::Int(value) => Some(value.to_string()),
            Token::Bool(value) => Some(value.to_string()),
            _ => None,
        }
    }

    /// The values of a list.
    pub fn items(self) -> Option<impl Iterator<Item = Node<'t>>> {
        let Token::List { end } = *self.token() else {
            return None;
        };
        let mut at = self.at + 1;
        Some(std::iter::from_fn(move || {
            let node = (at < end).then_some(Node {
                tokens: self.tokens,
                at,
            })?;
            at = node.end();
            Some(node)
        }))
    }

    /// The entries of a mapping.
    pub fn entries(self) -> Option<impl Iterator<Item = (&'t str, Node<'t>)>> {
        let Token::Map { end } = *self.token() else {
            return None;
        };
        let mut at = self.at + 1;
        Some(std::iter::from_fn(move || {
            let key = (at < end).then_some(Node {
                tokens: self.tokens,
                at,
            })?;
            let value = Node {
                tokens: self.tokens,
                at: at + 1,
            };
            at = value.end();
            Some((key.text().unwrap_or_default(), value))
        }))
    }

    /// The first value under a key, without a look at repetitions.
    pub fn get(self, key: &str) -> Option<Self> {
        self.entries()?
            .find(|(own, _)| *own == key)
            .map(|(_, value)| value)
    }
}

/// How much a text may unfold to. Written out, every value costs at least a byte of it; only aliases cost less.
pub struct Budget(Cell<usize>);

impl Budget {
    /// The budget of a text of so many bytes.
    pub fn of_text(bytes: usize) -> Self {
        Self(Cell::new(bytes.saturating_mul(2).saturating_add(4096)))
    }

    /// Whether it has been used up.
    pub fn spent(&self) -> bool {
        self.0.get() == 0
    }

    fn take<E: de::Error>(&self, cost: usize) -> Result<(), E> {
        let left = self.0.get().saturating_sub(cost);
        self.0.set(left);
        if left == 0 {
            Err(E::custom("aliases unfold too far"))
        } else {
            Ok(())
        }
    }
}

/// Puts one value on the tape.
struct Seed<'t, 'a, 'b> {
    tokens: &'t mut Vec<Token<'a>>,
    budget: &'b Budget,
    /// `<<` is a merge key.
    merges: bool,
}

impl<'a> Seed<'_, 'a, '_> {
    fn put<E: de::Error>(self, token: Token<'a>, cost: usize) -> Result<(), E> {
        self.budget.take(cost)?;
        self.tokens.push(token);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_, 'de, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_, 'de, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value without a tag")
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        self.put(Token::Null, 1)
    }

    fn visit_none<E: de::Error>(self) -> Result<(), E> {
        self.put(Token::Null, 1)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<(), E> {
        self.put(Token::Bool(value), 1)
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<(), E> {
        self.put(Token::Int(value), 1)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<(), E> {
        self.put(i64::try_from(value).map_or(Token::Number, Token::Int), 1)
    }

    fn visit_i128<E: de::Error>(self, _: i128) -> Result<(), E> {
        self.put(Token::Number, 1)
    }

    fn visit_u128<E: de::Error>(self, _: u128) -> Result<(), E> {
        self.put(Token::Number, 1)
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<(), E> {
        self.put(Token::Number, 1)
    }

    fn visit_borrowed_str<E: de::Error>(self, value: &'de str) -> Result<(), E> {
        self.put(Token::Text(Cow::Borrowed(value)), value.len().max(1))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<(), E> {
        self.visit_string(value.to_owned())
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<(), E> {
        let cost = value.len().max(1);
        self.put(Token::Text(Cow::Owned(value)), cost)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<(), A::Error> {
        self.budget.take(1)?;
        let head = self.tokens.len();
        self.tokens.push(Token::Null);
        while access
            .next_element_seed(Seed {
                tokens: self.tokens,
                budget: self.budget,
                merges: self.merges,
            })?
            .is_some()
        {}
        self.tokens[head] = Token::List {
            end: self.tokens.len(),
        };
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<(), A::Error> {
        self.budget.take(1)?;
        let head = self.tokens.len();
        self.tokens.push(Token::Null);
        loop {
            let key = self.tokens.len();
            if access
                .next_key_seed(Seed {
                    tokens: self.tokens,
                    budget: self.budget,
                    merges: self.merges,
                })?
                .is_none()
            {
                break;
            }
            // Scalars that are not text (`80: x`) become text, which no field of ours is.
            if !matches!(self.tokens[key], Token::Text(_)) {
                let Some(text) = (Node {
                    tokens: self.tokens,
                    at: key,
                })
                .scalar() else {
                    return Err(de::Error::custom("a key is not a plain scalar"));
                };
                self.tokens[key] = Token::Text(Cow::Owned(text));
            }
            access.next_value_seed(Seed {
                tokens: self.tokens,
                budget: self.budget,
                merges: self.merges,
            })?;
        }
        if self.merges {
            merge::fold(self.tokens, head + 1).map_err(de::Error::custom)?;
        }
        self.tokens[head] = Token::Map {
            end: self.tokens.len(),
        };
        Ok(())
    }
}
