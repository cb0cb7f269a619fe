//! The writes of one policy, in their order: what should be, then what should not, then conditions, then Events.

use std::collections::BTreeMap;

use resolve::ObjectKey;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::{
    election::Standing,
    events::Event,
    objects::{Desired, Name},
};
use crate::{
    FIELD_MANAGER,
    api::{Access, Error, Meta, Raw, Resource},
};

/// Conditions of an object: by type the message, and since when.
pub(crate) type Conditions = BTreeMap<String, (String, String)>;

/// What is to be written for one policy.
#[derive(Clone, Debug)]
pub(crate) struct Work {
    pub(crate) policy: ObjectKey,
    pub(crate) apply: Vec<Desired>,
    /// Name and uid.
    pub(crate) delete: Vec<(Name, String)>,
    pub(crate) conditions: Vec<(Name, Conditions)>,
    pub(crate) events: Vec<Event>,
}

impl Work {
    pub(crate) fn is_empty(&self) -> bool {
        self.apply.is_empty()
            && self.delete.is_empty()
            && self.conditions.is_empty()
            && self.events.is_empty()
    }
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) policy: ObjectKey,
    /// Objects as the API has them now.
    pub(crate) objects: Vec<Raw>,
    pub(crate) deleted: Vec<Name>,
    pub(crate) events: Vec<Event>,
    /// The API does not keep conditions: the object is defined without them.
    pub(crate) keeps_no_conditions: bool,
    pub(crate) status_writes: u64,
    /// Nothing after it was tried.
    pub(crate) error: Option<Error>,
}

pub(crate) async fn carry_out(
    access: Access,
    work: Work,
    standing: watch::Receiver<Standing>,
) -> Done {
    let mut done = Done {
        policy: work.policy.clone(),
        objects: Vec::new(),
        deleted: Vec::new(),
        events: Vec::new(),
        keeps_no_conditions: false,
        status_writes: 0,
        error: None,
    };
    if let Err(error) = steps(&access, work, &standing, &mut done).await {
        done.error = Some(error);
    }
    done
}

async fn steps(
    access: &Access,
    work: Work,
    standing: &watch::Receiver<Standing>,
    done: &mut Done,
) -> Result<(), Error> {
    for object in work.apply {
        if !standing.borrow().leads() {
            return Ok(());
        }
        let Name { namespace, name } = &object.name;
        let resource = object.name.resource();
        let answer = access
            .apply(resource, namespace, name, "", FIELD_MANAGER, &object.value)
            .await?;
        done.objects.push(raw(resource, answer)?);
    }
    for (object, uid) in work.delete {
        if !standing.borrow().leads() {
            return Ok(());
        }
        access
            .delete(object.resource(), &object.namespace, &object.name, &uid)
            .await?;
        done.deleted.push(object);
    }
    for (object, conditions) in work.conditions {
        if !standing.borrow().leads() {
            return Ok(());
        }
        let resource = object.resource();
        let value = status(resource, &object, &conditions);
        let Name { namespace, name } = &object;
        let answer = access
            .apply(resource, namespace, name, "/status", FIELD_MANAGER, &value)
            .await?;
        done.status_writes += 1;
        let kept = serde_json::from_str::<Value>(&answer)
            .is_ok_and(|value| value["status"]["conditions"].is_array());
        done.keeps_no_conditions |= !kept && !conditions.is_empty();
        done.objects.push(raw(resource, answer)?);
    }
    for event in work.events {
        match event.send(access).await {
            // It was told before.
            Ok(()) | Err(Error::Conflict { .. }) => done.events.push(event),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn status(resource: Resource, object: &Name, conditions: &Conditions) -> Value {
    let conditions: Vec<Value> = conditions
        .iter()
        .map(|(kind, (message, since))| {
            json!({
                "type": kind, "status": "True", "reason": kind,
                "message": message, "lastTransitionTime": since,
            })
        })
        .collect();
    let mut metadata = json!({ "name": object.name });
    if !object.namespace.is_empty() {
        metadata["namespace"] = object.namespace.as_str().into();
    }
    json!({
        "apiVersion": resource.api_version(resource.versions[0]),
        "kind": resource.kind,
        "metadata": metadata,
        "status": { "conditions": conditions },
    })
}

fn raw(resource: Resource, json: String) -> Result<Raw, Error> {
    #[derive(serde::Deserialize)]
    struct WithMeta {
        metadata: Meta,
    }
    let object: WithMeta = serde_json::from_str(&json).map_err(|error| Error::Malformed {
        verb: crate::api::Verb::Patch,
        resource,
        message: error.to_string(),
    })?;
    Ok(Raw {
        meta: object.metadata,
        json: json.into(),
    })
}
