//! PolicyEndpoint documents as text, as a person or a controller writes them.

use std::fmt::Write;

use crate::pod::Pod;

/// A PolicyEndpoint in the making.
#[derive(Debug, Clone)]
pub struct Doc {
    namespace: String,
    name: String,
    policy: String,
    annotations: Vec<(String, String)>,
    pods: Vec<(String, String)>,
    selector: Option<String>,
    isolation: Vec<&'static str>,
    ingress: Vec<String>,
    egress: Vec<String>,
}

impl Doc {
    /// An object of this name for the policy of the same name, selecting nobody yet.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            policy: name.to_owned(),
            annotations: Vec::new(),
            pods: Vec::new(),
            selector: None,
            isolation: Vec::new(),
            ingress: Vec::new(),
            egress: Vec::new(),
        }
    }

    /// Another policy's name than the object's.
    #[must_use]
    pub fn policy(mut self, name: &str) -> Self {
        self.policy = name.to_owned();
        self
    }

    /// Adds an annotation.
    #[must_use]
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Selects a pod by namespace and name.
    #[must_use]
    pub fn selects(self, pod: &Pod<'_>) -> Self {
        let ip = pod
            .first_address()
            .map(|address| address.to_string())
            .unwrap_or_default();
        self.selects_named(pod.name(), &ip)
    }

    /// Selects a pod of the document's namespace by name.
    #[must_use]
    pub fn selects_named(mut self, name: &str, ip: &str) -> Self {
        self.pods.push((name.to_owned(), ip.to_owned()));
        self
    }

    /// The `podSelector`, as YAML flow text such as `{matchLabels: {app: web}}`.
    #[must_use]
    pub fn selector(mut self, selector: &str) -> Self {
        self.selector = Some(selector.to_owned());
        self
    }

    /// Isolates ingress.
    #[must_use]
    pub fn isolate_ingress(mut self) -> Self {
        self.isolation.push("Ingress");
        self
    }

    /// Isolates egress.
    #[must_use]
    pub fn isolate_egress(mut self) -> Self {
        self.isolation.push("Egress");
        self
    }

    /// Allows ingress from a block; `more` is YAML flow text after the cidr, such as `ports: [{protocol: TCP, port: 80}]`.
    #[must_use]
    pub fn ingress(mut self, cidr: impl std::fmt::Display, more: &str) -> Self {
        self.ingress.push(rule(&cidr.to_string(), more));
        self
    }

    /// Allows egress to a block.
    #[must_use]
    pub fn egress(mut self, cidr: impl std::fmt::Display, more: &str) -> Self {
        self.egress.push(rule(&cidr.to_string(), more));
        self
    }

    /// The YAML text.
    #[must_use]
    pub fn yaml(&self) -> String {
        let mut text = String::new();
        let mut line = |line: &str| {
            let _ = writeln!(text, "{line}");
        };
        line("apiVersion: networking.k8s.aws/v1alpha1");
        line("kind: PolicyEndpoint");
        line("metadata:");
        line(&format!("  name: {}", self.name));
        line(&format!("  namespace: {}", self.namespace));
        if !self.annotations.is_empty() {
            line("  annotations:");
        }
        for (key, value) in &self.annotations {
            line(&format!("    {key}: \"{value}\""));
        }
        line("spec:");
        line(&format!(
            "  policyRef: {{name: {}, namespace: {}}}",
            self.policy, self.namespace
        ));
        if let Some(selector) = &self.selector {
            line(&format!("  podSelector: {selector}"));
        }
        line(&format!("  podIsolation: [{}]", self.isolation.join(", ")));
        line("  podSelectorEndpoints:");
        for (name, ip) in &self.pods {
            line(&format!(
                "  - {{hostIP: \"{}\", podIP: \"{ip}\", name: {name}, namespace: {}}}",
                crate::node::NODE_V4,
                self.namespace
            ));
        }
        for (key, rules) in [("ingress", &self.ingress), ("egress", &self.egress)] {
            if !rules.is_empty() {
                line(&format!("  {key}:"));
            }
            for rule in rules {
                line(&format!("  - {rule}"));
            }
        }
        text
    }
}

fn rule(cidr: &str, more: &str) -> String {
    let more = if more.is_empty() {
        String::new()
    } else {
        format!(", {more}")
    };
    format!("{{cidr: \"{cidr}\"{more}}}")
}
