//! Policy put in force on the kernel's maps by the compiler, plan and executor that the companion uses.

use std::path::Path;
use std::sync::Arc;

use policy::plan::{Plan, Step, Taken};
use policy::{Compiler, Endpoint, EndpointId, Facts, Policies};
use state::Store;

use crate::companion::{Error, KernelTables, Target};

/// The tables, and what they were compiled from.
pub(crate) struct Carrier {
    tables: KernelTables,
    compiler: Compiler,
    policies: Policies,
}

impl Carrier {
    pub(crate) fn open(store: &Store, bpf: &Path) -> Result<Self, Error> {
        let tables = KernelTables::open(store, bpf)?;
        let compiler = Compiler::with_hints(tables.image.hints());
        Ok(Self {
            tables,
            compiler,
            policies: Policies::new(),
        })
    }

    /// As the companion does it, but for its waiting: no program runs while this writes. The number of writes.
    pub(crate) fn put_in_force(
        &mut self,
        endpoints: &[Endpoint],
        mut policies: Policies,
        facts: &Facts,
        (id, endpoint_index): (EndpointId, u32),
        target: Target,
    ) -> Result<usize, Error> {
        for (key, policy) in &mut policies {
            match self.policies.get(key) {
                Some(before) if before.documents == policy.documents => {
                    *policy = Arc::clone(before);
                }
                Some(before) => self.compiler.replace(before, policy),
                None => {}
            }
        }
        for endpoint in endpoints {
            let selecting = policies.values().filter(|p| p.selects(endpoint, facts));
            let profile: Vec<_> = selecting.cloned().collect();
            self.compiler.assign(endpoint.id, &profile);
        }
        self.policies = policies;
        let tables = &mut self.tables;
        let mut plan = Plan::new(&mut self.compiler, &mut tables.image, &[]);
        let writes = plan.len();
        while plan.next() != Step::Done {
            tables.run(&mut plan, &mut self.compiler, |endpoint| {
                (endpoint == id).then_some(target)
            })?;
            if plan.next() == Step::Grace {
                plan.took(Taken::Done, &mut self.compiler, &mut tables.image);
            }
        }
        // The mode is no part of a plan.
        tables.correct(id, endpoint_index, target)?;
        Ok(writes)
    }
}
