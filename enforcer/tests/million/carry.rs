//! A plan carried out on the kernel's maps by the companion's own code.

use policy::{EndpointId, Plan};

use crate::companion::{Error, KernelTables, Target};

/// As the companion's engine does it, but for its waiting: no program runs while this writes.
pub(crate) fn carry_out(
    carrier: &mut KernelTables,
    plan: &Plan,
    (id, endpoint_index): (EndpointId, u32),
    target: Target,
) -> Result<(), Error> {
    carrier.write(&plan.prepare)?;
    carrier.flip(&plan.policy_states, |endpoint| {
        (endpoint == id).then_some(target)
    })?;
    // The mode is no part of a plan.
    carrier.correct(id, endpoint_index, target)?;
    carrier.live.grace();
    for phase in [&plan.settle, &plan.sweep] {
        carrier.write(phase)?;
        carrier.live.grace();
    }
    Ok(())
}
