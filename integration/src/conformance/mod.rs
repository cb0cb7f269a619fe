//! Traffic conformance: NetworkPolicy as users write it, resolved by `podgatectl resolve`, judged by real connections.
//!
//! Nine pods (a, b, c in namespaces x, y, z) stand for the whole run, wired by cnitool through the real chain; an outside host
//! has three addresses more. What changes are the manifests. A *case* is data (`integration/conformance`): steps, each with what changes
//! and with the truth after it. That truth is written by hand, as what each isolated pod lets in and out ([`expect`]); or it is the
//! product of such lists, written beside the parts that a [`matrix`] puts together. Nothing in here reads a policy: it must not share a
//! thought with `resolve`, which is what is tested.
//!
//! Every step is probed completely: all pairs, TCP and UDP, two ports, both families, and Services by their cluster addresses.

pub mod case;
pub mod cluster;
pub mod expect;
pub mod manifests;
pub mod matrix;
pub mod prober;
pub mod run;
pub mod world;

pub use case::{Case, Mode};
pub use run::{Options, Report, run};

use std::path::{Path, PathBuf};

/// The folder of the data.
#[must_use]
pub fn data() -> PathBuf {
    crate::tools::workspace().join("integration/conformance")
}

/// All cases: those of the files, in the order of their names, and those of the matrix.
///
/// # Errors
/// What is wrong in which file.
pub fn all() -> Result<Vec<Case>, String> {
    read(&data())
}

/// The cases of another folder that is built the same: `cases/*.yaml`, and `matrix.yaml` if there is one.
///
/// # Errors
/// What is wrong in which file.
pub fn read(folder: &Path) -> Result<Vec<Case>, String> {
    let mut cases = case::read_folder(&folder.join("cases"))?;
    let matrix = folder.join("matrix.yaml");
    if matrix.exists() {
        cases.extend(matrix::Matrix::read(&matrix)?.cases()?);
    }
    Ok(cases)
}
