//! What the resolver says of a policy, as objects of the API and as the store's file.

use resolve::{Marks, PolicyFile};
use serde_json::Value;

use crate::FIELD_MANAGER;

/// A policy's documents as the controller writes them.
pub(crate) fn marked(file: &PolicyFile) -> Vec<Value> {
    file.documents(&Marks {
        managed_by: FIELD_MANAGER,
        policy_generation: true,
    })
}

/// One List of a policy's documents, as `podgate-sync --resolve` writes it.
pub(crate) fn list(file: &PolicyFile) -> Vec<u8> {
    file.to_list_json(&Marks {
        managed_by: "podgate-sync",
        policy_generation: true,
    })
}
