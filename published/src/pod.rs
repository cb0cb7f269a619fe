//! What the store knows of the pod behind an endpoint record.

use policy::{Endpoint, EndpointId};
use state::workloads::Workloads;
use state::{Record, Store, Workload};

/// The workload of a record's pod.
#[must_use]
pub fn workload<'a>(workloads: &'a Workloads, record: &Record) -> Option<&'a Workload> {
    workloads
        .pods
        .get(&(record.pod_namespace.clone(), record.pod_name.clone()))
        .filter(|workload| is_about(workload, record))
}

/// The same, where one pod is asked for: reads that pod's file only.
///
/// # Errors
/// If the file is there and cannot be read.
pub fn read_workload(store: &Store, record: &Record) -> Result<Option<Workload>, state::Error> {
    let workload = store.workload(&record.pod_namespace, &record.pod_name)?;
    Ok(workload.filter(|workload| is_about(workload, record)))
}

/// The endpoint as policy sees it: the workload's labels, else those that its ADD brought.
#[must_use]
pub fn endpoint(record: &Record, workload: Option<&Workload>) -> Endpoint {
    Endpoint {
        id: EndpointId(record.endpoint_id),
        namespace: record.pod_namespace.clone(),
        name: record.pod_name.clone(),
        labels: workload
            .map(|w| w.labels.clone())
            .or_else(|| record.labels.clone()),
    }
}

/// Whether a workload is about the pod of the record, and not about a later or earlier one of its name.
fn is_about(workload: &Workload, record: &Record) -> bool {
    match &record.pod_uid {
        Some(uid) => workload.uid.is_empty() || *uid == workload.uid,
        None => true,
    }
}
