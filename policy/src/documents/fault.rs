//! What can be wrong with a document, by field.

use thiserror::Error;

use crate::prefix::{Prefix, PrefixError};

/// A document that cannot be used: which one, where, and why.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("read {document}: {}{fault}", if field.is_empty() { String::new() } else { format!("{field}: ") })]
pub struct DocumentError {
    /// `document 2 (PolicyEndpoint/default/web)`, as far as it could be seen.
    pub document: String,
    /// Path of the field, such as `spec.ingress[3].cidr`; empty = the document as a whole.
    pub field: String,
    /// What is wrong there.
    pub fault: Fault,
}

/// What is wrong with a field.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    /// Neither YAML nor JSON.
    #[error("not YAML or JSON: {0}")]
    Unreadable(String),
    /// The file is larger than we read.
    #[error("{bytes} bytes are more than the {most} that are read; split the file")]
    TooLarge {
        /// Size.
        bytes: usize,
        /// Limit.
        most: usize,
    },
    /// YAML aliases that unfold to far more than was written.
    #[error("aliases unfold to more than the document's own size; write it out")]
    Unfolds,
    /// Brackets within brackets, beyond anything that a policy document holds.
    #[error("brackets are nested more than {0} deep")]
    Nested(usize),
    /// A document of a kind that is not ours.
    #[error(
        "{api_version} {kind} is not a policy document; expected networking.k8s.aws/v1alpha1 PolicyEndpoint or ClusterPolicyEndpoint"
    )]
    OtherKind {
        /// Its apiVersion, or `(none)`.
        api_version: String,
        /// Its kind, or `(none)`.
        kind: String,
    },
    /// A kind that an API server does not have, much like one that it has.
    #[error("{api_version} has no kind {kind:?}; expected {expected} and its apiVersion")]
    UnknownKind {
        /// apiVersion.
        api_version: String,
        /// What stands there.
        kind: String,
        /// The kind that is meant.
        expected: &'static str,
    },
    /// A field that must be there.
    #[error("missing; expected {0}")]
    Missing(&'static str),
    /// A value of another type.
    #[error("is {found}; expected {expected}")]
    WrongType {
        /// What belongs there.
        expected: &'static str,
        /// What stands there.
        found: &'static str,
    },
    /// A field that the kind does not have: most often a misspelt one, and then policy would be lost.
    #[error("unknown field")]
    UnknownField,
    /// Something that an API server refuses, in its words.
    #[error("{0}")]
    Refused(&'static str),
    /// The same key twice in one mapping.
    #[error("given twice")]
    Twice,
    /// Not a block of addresses.
    #[error(transparent)]
    Prefix(#[from] PrefixError),
    /// An except that does not lie inside its block.
    #[error("{except} is not inside {cidr}")]
    ExceptOutside {
        /// The except.
        except: Prefix,
        /// The block.
        cidr: Prefix,
    },
    /// An except of the other family.
    #[error("{except} and {cidr} are not of one address family")]
    ExceptFamily {
        /// The except.
        except: Prefix,
        /// The block.
        cidr: Prefix,
    },
    /// A number outside its range.
    #[error("{value} is not in {first} to {last}")]
    Range {
        /// What stands there.
        value: i64,
        /// Lowest.
        first: i64,
        /// Highest.
        last: i64,
    },
    /// A range that ends before it begins.
    #[error("{end} is below port {port}")]
    EndBeforePort {
        /// endPort.
        end: u16,
        /// port.
        port: u16,
    },
    /// endPort without port.
    #[error("given without port")]
    EndWithoutPort,
    /// A word that is none of the known ones.
    #[error("{value:?} is not known; expected {expected}")]
    Unknown {
        /// What stands there.
        value: String,
        /// What could stand there.
        expected: &'static str,
    },
    /// A selector operator with values it does not take, or without those it needs.
    #[error("{operator} {problem}")]
    Values {
        /// In, NotIn, Exists or DoesNotExist.
        operator: String,
        /// `needs values` or `takes no values`.
        problem: &'static str,
    },
}
