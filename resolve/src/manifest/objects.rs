//! Pods, namespaces, nodes, Services and their endpoints.

use std::net::IpAddr;

use super::{
    Remark,
    common::{NAMESPACE_NAME, address, labels, map, number, protocol, text},
};
use crate::model::{
    ContainerPort, EndpointSlice, Endpoints, Namespace, Node, Object, ObjectKey, ObjectKind, Pod,
    Service, ServicePort, SlicePort, Target,
};
use policy::documents::cursor::{Cursor, Result};

/// The annotation in which Amazon's CNI tells a pod's addresses before its status does.
const POD_IPS: &str = "vpc.amazonaws.com/pod-ips";
/// The label by which an EndpointSlice names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The label by which an EndpointSlice names its writer.
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// The writer that follows the Service's selector.
const SLICE_CONTROLLER: &str = "endpointslice-controller.k8s.io";

pub(super) fn read(
    root: &Cursor<'_, '_>,
    key: ObjectKey,
    remarks: &mut Vec<Remark>,
) -> Result<Object> {
    match key.kind {
        ObjectKind::Namespace => namespace(root, key),
        ObjectKind::Node => node(root, key),
        ObjectKind::Service => service(root, key),
        ObjectKind::EndpointSlice => slice(root, key, remarks),
        ObjectKind::Endpoints => endpoints(root, key),
        _ => pod(root, key),
    }
}

fn sorted(mut addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

fn is_true(cursor: &Cursor<'_, '_>, key: &str) -> Result<bool> {
    Ok(cursor
        .get(key)?
        .map(|c| c.scalar())
        .transpose()?
        .is_some_and(|text| text == "true"))
}

fn namespace(root: &Cursor<'_, '_>, key: ObjectKey) -> Result<Object> {
    let mut labels = labels(root)?;
    labels.insert(NAMESPACE_NAME.to_owned(), key.name.clone());
    Ok(Object::Namespace(Namespace {
        name: key.name,
        labels,
    }))
}

fn node(root: &Cursor<'_, '_>, key: ObjectKey) -> Result<Object> {
    let mut addresses = Vec::new();
    if let Some(status) = root.get("status")?
        && let Some(list) = status.get("addresses")?
    {
        for entry in list.items()? {
            // The other types are names.
            if matches!(text(&entry, "type")?, Some("InternalIP" | "ExternalIP"))
                && let Some(cursor) = entry.get("address")?
            {
                addresses.extend(address(&cursor)?);
            }
        }
    }
    Ok(Object::Node(Node {
        name: key.name,
        labels: labels(root)?,
        addresses: sorted(addresses),
    }))
}

fn pod(root: &Cursor<'_, '_>, key: ObjectKey) -> Result<Object> {
    let mut pod = Pod {
        namespace: key.namespace,
        name: key.name,
        uid: String::new(),
        labels: labels(root)?,
        node: String::new(),
        host_address: None,
        primary_address: None,
        host_network: false,
        finished: false,
        terminating: false,
        ready: true,
        addresses: Vec::new(),
        ports: Vec::new(),
    };
    if let Some(spec) = root.get("spec")? {
        pod.node = text(&spec, "nodeName")?.unwrap_or_default().to_owned();
        pod.host_network = is_true(&spec, "hostNetwork")?;
        pod.ports = container_ports(&spec)?;
    }
    if let Some(status) = root.get("status")? {
        pod.finished = matches!(text(&status, "phase")?, Some("Succeeded" | "Failed"));
        pod.ready = is_ready(&status)?;
        if let Some(cursor) = status.get("hostIP")? {
            pod.host_address = address(&cursor)?;
        }
        if let Some(cursor) = status.get("podIP")? {
            pod.addresses.extend(address(&cursor)?);
        }
        if let Some(list) = status.get("podIPs")? {
            for entry in list.items()? {
                if let Some(cursor) = entry.get("ip")? {
                    pod.addresses.extend(address(&cursor)?);
                }
            }
        }
    }
    if let Some(metadata) = root.get("metadata")? {
        pod.uid = text(&metadata, "uid")?.unwrap_or_default().to_owned();
        pod.terminating = metadata.get("deletionTimestamp")?.is_some();
        if pod.addresses.is_empty()
            && let Some(annotations) = metadata.get("annotations")?
            && let Some(early) = text(&annotations, POD_IPS)?
        {
            let parsed = early
                .split([',', ' '])
                .filter_map(|ip| ip.trim().parse::<IpAddr>().ok());
            pod.addresses.extend(parsed);
        }
    }
    pod.primary_address = pod.addresses.first().copied();
    pod.addresses = sorted(pod.addresses);
    Ok(Object::Pod(Box::new(pod)))
}

fn is_ready(status: &Cursor<'_, '_>) -> Result<bool> {
    if let Some(list) = status.get("conditions")? {
        for condition in list.items()? {
            if text(&condition, "type")? == Some("Ready") {
                return Ok(text(&condition, "status")? == Some("True"));
            }
        }
    }
    Ok(true)
}

/// Named ports: containers first, then sidecars, then init containers that end.
fn container_ports(spec: &Cursor<'_, '_>) -> Result<Vec<ContainerPort>> {
    let mut ports = Vec::new();
    if let Some(list) = spec.get("containers")? {
        for container in list.items()? {
            named_ports(&container, false, &mut ports)?;
        }
    }
    let mut ending = Vec::new();
    if let Some(list) = spec.get("initContainers")? {
        for container in list.items()? {
            if text(&container, "restartPolicy")? == Some("Always") {
                named_ports(&container, false, &mut ports)?;
            } else {
                named_ports(&container, true, &mut ending)?;
            }
        }
    }
    ports.append(&mut ending);
    Ok(ports)
}

fn named_ports(
    container: &Cursor<'_, '_>,
    init: bool,
    ports: &mut Vec<ContainerPort>,
) -> Result<()> {
    if let Some(list) = container.get("ports")? {
        for entry in list.items()? {
            let protocol = protocol(&entry)?;
            if let Some(name) = text(&entry, "name")?
                && let Some(port) = number(&entry, "containerPort")?
            {
                ports.push(ContainerPort {
                    name: name.to_owned(),
                    protocol,
                    port,
                    init,
                });
            }
        }
    }
    Ok(())
}

fn service(root: &Cursor<'_, '_>, key: ObjectKey) -> Result<Object> {
    let mut service = Service {
        namespace: key.namespace,
        name: key.name,
        selector: Default::default(),
        addresses: Vec::new(),
        ports: Vec::new(),
        publish_not_ready: false,
    };
    if let Some(spec) = root.get("spec")? {
        service.selector = map(&spec, "selector")?;
        service.publish_not_ready = is_true(&spec, "publishNotReadyAddresses")?;
        if text(&spec, "type")? != Some("ExternalName") {
            service.addresses = cluster_addresses(&spec)?;
            // Without a cluster address kube-proxy leads nowhere by the others either.
            if !service.addresses.is_empty() {
                service.addresses.extend(outer_addresses(root, &spec)?);
                service.addresses = sorted(service.addresses);
            }
        }
        if let Some(list) = spec.get("ports")? {
            for entry in list.items()? {
                service.ports.push(service_port(&entry)?);
            }
        }
    }
    Ok(Object::Service(Box::new(service)))
}

fn cluster_addresses(spec: &Cursor<'_, '_>) -> Result<Vec<IpAddr>> {
    let mut addresses = Vec::new();
    let mut take = |cursor: &Cursor<'_, '_>| -> Result<()> {
        if cursor.node.text() != Some("None") {
            addresses.extend(address(cursor)?);
        }
        Ok(())
    };
    if let Some(cursor) = spec.get("clusterIP")? {
        take(&cursor)?;
    }
    if let Some(list) = spec.get("clusterIPs")? {
        for cursor in list.items()? {
            take(&cursor)?;
        }
    }
    Ok(sorted(addresses))
}

/// External addresses and those of load balancers: kube-proxy leads what pods send there to the backends.
fn outer_addresses(root: &Cursor<'_, '_>, spec: &Cursor<'_, '_>) -> Result<Vec<IpAddr>> {
    let mut addresses = Vec::new();
    if let Some(list) = spec.get("externalIPs")? {
        for cursor in list.items()? {
            addresses.extend(address(&cursor)?);
        }
    }
    if let Some(status) = root.get("status")?
        && let Some(balancer) = status.get("loadBalancer")?
        && let Some(list) = balancer.get("ingress")?
    {
        for entry in list.items()? {
            // With `Proxy` the packet leaves the node and meets the balancer itself.
            if text(&entry, "ipMode")? != Some("Proxy")
                && let Some(cursor) = entry.get("ip")?
            {
                addresses.extend(address(&cursor)?);
            }
        }
    }
    Ok(addresses)
}

fn service_port(entry: &Cursor<'_, '_>) -> Result<ServicePort> {
    let Some(port) = number(entry, "port")? else {
        return Err(entry.missing("port", "a port number"));
    };
    let target = match entry.get("targetPort")? {
        None => Target::Number(port),
        Some(cursor) => match cursor.node.text() {
            Some("") => Target::Number(port),
            Some(name) => Target::Name(name.to_owned()),
            // 0 is what Go writes for absent.
            None if cursor.node.int() == Some(0) => Target::Number(port),
            None => Target::Number(number(entry, "targetPort")?.unwrap_or(port)),
        },
    };
    Ok(ServicePort {
        name: text(entry, "name")?.unwrap_or_default().to_owned(),
        protocol: protocol(entry)?,
        port,
        target,
    })
}

fn slice(root: &Cursor<'_, '_>, key: ObjectKey, remarks: &mut Vec<Remark>) -> Result<Object> {
    let mut slice = EndpointSlice {
        namespace: key.namespace,
        name: key.name,
        service: String::new(),
        of_selector: false,
        ports: Vec::new(),
        endpoints: Vec::new(),
    };
    let mut labels = labels(root)?;
    slice.service = labels.remove(SERVICE_NAME).unwrap_or_default();
    slice.of_selector = labels
        .get(MANAGED_BY)
        .is_some_and(|by| by == SLICE_CONTROLLER);
    if slice.service.is_empty() {
        remarks.push(Remark {
            field: "metadata.labels".to_owned(),
            text: format!("no label {SERVICE_NAME}: belongs to no Service"),
        });
    }
    if let Some(list) = root.get("ports")? {
        for entry in list.items()? {
            slice.ports.extend(slice_port(&entry)?);
        }
    }
    if text(root, "addressType")? == Some("FQDN") {
        return Ok(Object::EndpointSlice(Box::new(slice)));
    }
    if let Some(list) = root.get("endpoints")? {
        for entry in list.items()? {
            let ready = match entry.get("conditions")? {
                Some(conditions) => match conditions.get("ready")? {
                    Some(ready) => ready.scalar()? == "true",
                    None => true,
                },
                None => true,
            };
            if let Some(addresses) = entry.get("addresses")? {
                for cursor in addresses.items()? {
                    slice
                        .endpoints
                        .extend(address(&cursor)?.map(|address| (address, ready)));
                }
            }
        }
    }
    slice.endpoints.sort_unstable();
    slice.endpoints.dedup();
    Ok(Object::EndpointSlice(Box::new(slice)))
}

fn endpoints(root: &Cursor<'_, '_>, key: ObjectKey) -> Result<Object> {
    let mut subsets = Vec::new();
    if let Some(list) = root.get("subsets")? {
        for subset in list.items()? {
            let mut slice = EndpointSlice {
                namespace: key.namespace.clone(),
                name: key.name.clone(),
                service: key.name.clone(),
                of_selector: false,
                ports: Vec::new(),
                endpoints: Vec::new(),
            };
            if let Some(ports) = subset.get("ports")? {
                for entry in ports.items()? {
                    slice.ports.extend(slice_port(&entry)?);
                }
            }
            for (list, ready) in [("addresses", true), ("notReadyAddresses", false)] {
                if let Some(addresses) = subset.get(list)? {
                    for entry in addresses.items()? {
                        if let Some(cursor) = entry.get("ip")? {
                            let address = address(&cursor)?.map(|address| (address, ready));
                            slice.endpoints.extend(address);
                        }
                    }
                }
            }
            slice.endpoints.sort_unstable();
            slice.endpoints.dedup();
            subsets.push(slice);
        }
    }
    Ok(Object::Endpoints(Box::new(Endpoints {
        namespace: key.namespace,
        name: key.name,
        subsets,
    })))
}

/// A port of endpoints. No number = every port: nothing that kube-proxy could lead to.
fn slice_port(entry: &Cursor<'_, '_>) -> Result<Option<SlicePort>> {
    let Some(port) = number(entry, "port")? else {
        return Ok(None);
    };
    Ok(Some(SlicePort {
        name: text(entry, "name")?.unwrap_or_default().to_owned(),
        protocol: protocol(entry)?,
        port,
    }))
}
