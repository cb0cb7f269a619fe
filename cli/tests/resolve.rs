//! `podgatectl resolve` as a user meets it: the binary itself, files in, files and words out.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

const NAMESPACE: &str =
    "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {team: a}}\n";
const WEB: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, uid: u-web, labels: {app: web}}
spec: {nodeName: n1, containers: [{name: c, image: i, ports: [{name: http, containerPort: 8080}]}]}
status: {phase: Running, podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}
";
const FRONT: &str = "
apiVersion: v1
kind: Pod
metadata: {name: front, namespace: shop, uid: u-front, labels: {app: front}}
spec: {nodeName: n2, containers: [{name: c, image: i}]}
status: {phase: Running, podIP: 10.0.0.2, podIPs: [{ip: 10.0.0.2}]}
";

fn policy(name: &str, rule: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{podSelector: {{matchLabels: {{app: web}}}}, policyTypes: [Ingress], ingress: [{rule}]}}\n"
    )
}

const FROM_FRONT: &str =
    "{from: [{podSelector: {matchLabels: {app: front}}}], ports: [{port: 80}]}";

/// What a run did.
#[derive(Debug)]
struct Run {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// A folder with manifests in `in/`; documents go to `out/`.
struct Desk(TempDir);

impl Desk {
    fn new(files: &[(&str, &str)]) -> Self {
        let desk = Self(tempfile::tempdir().unwrap());
        for (name, text) in files {
            desk.put(name, text);
        }
        desk
    }

    /// One with a namespace, two pods and a policy.
    fn usual() -> Self {
        Self::new(&[
            ("cluster.yaml", &format!("{NAMESPACE}---{WEB}---{FRONT}")),
            ("web.yaml", &policy("web", FROM_FRONT)),
        ])
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn put(&self, name: &str, text: &str) {
        let path = self.path("in").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn take(&self, name: &str) {
        fs::remove_file(self.path("in").join(name)).unwrap();
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_podgatectl"));
        command
            .current_dir(self.0.path())
            .arg("resolve")
            .args(words);
        command
    }

    fn run(&self, words: &[&str]) -> Run {
        self.run_with(words, "")
    }

    fn run_with(&self, words: &[&str], stdin: &str) -> Run {
        let mut child = self
            .command(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(stdin.as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        Run {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// `-f in --output-dir out`, with more words.
    fn write(&self, more: &[&str]) -> Run {
        self.run(&[&["-f", "in", "--output-dir", "out"], more].concat())
    }

    /// What is in a folder, folders in it too.
    fn files(&self, folder: &str) -> Vec<String> {
        fn walk(root: &Path, path: &Path, found: &mut Vec<String>) {
            for entry in fs::read_dir(path).into_iter().flatten().flatten() {
                if entry.path().is_dir() {
                    walk(root, &entry.path(), found);
                } else {
                    found.push(
                        entry
                            .path()
                            .strip_prefix(root)
                            .unwrap()
                            .to_str()
                            .unwrap()
                            .to_owned(),
                    );
                }
            }
        }
        let (root, mut found) = (self.path(folder), Vec::new());
        walk(&root, &root, &mut found);
        found.sort();
        found
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }
}

/// The documents of a file that `resolve` wrote, read by another reader.
fn documents(text: &str) -> Vec<Value> {
    text.split("---\n")
        .filter(|part| !part.trim().is_empty())
        .map(|part| serde_norway::from_str(part).unwrap())
        .collect()
}

/// The blocks that let anybody in.
fn cidrs(text: &str) -> Vec<String> {
    let mut cidrs: Vec<String> = documents(text)
        .iter()
        .flat_map(|document| {
            document["spec"]["ingress"]
                .as_array()
                .cloned()
                .unwrap_or_default()
        })
        .map(|rule| rule["cidr"].as_str().unwrap().to_owned())
        .collect();
    cidrs.sort();
    cidrs
}

const WEB_FILE: &str = "shop_web_NetworkPolicy.yaml";

#[test]
fn a_folder_becomes_one_marked_file_a_policy() {
    let desk = Desk::usual();
    desk.put("deeper/more.yml", &policy("more", "{}"));
    desk.put("deeper/README.md", "not: [a manifest");
    desk.put(".hidden.yaml", "not: [a manifest");
    let run = desk.write(&[]);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_eq!(run.stderr, "");
    assert_eq!(
        desk.files("out"),
        ["shop_more_NetworkPolicy.yaml", WEB_FILE]
    );
    assert!(
        run.stdout
            .contains("created out/shop_web_NetworkPolicy.yaml\n"),
        "{run:?}"
    );
    assert!(
        run.stdout.ends_with("2 policies, 2 files changed\n"),
        "{run:?}"
    );
    let text = desk.text("out/shop_web_NetworkPolicy.yaml");
    for document in documents(&text) {
        let annotations = &document["metadata"]["annotations"];
        assert_eq!(document["kind"], "PolicyEndpoint");
        assert_eq!(annotations["podgate.dev/managed-by"], "resolve");
        assert_eq!(document["spec"]["policyRef"]["name"], "web");
    }
    assert_eq!(cidrs(&text), ["10.0.0.2/32"]);
    assert_eq!(
        fs::metadata(desk.path("out/shop_web_NetworkPolicy.yaml"))
            .unwrap()
            .permissions()
            .mode()
            & 0o777,
        0o600,
        "the store reads nothing that others may write"
    );
}

#[test]
fn files_lists_json_and_standard_input_give_the_same_documents() {
    let desk = Desk::usual();
    desk.write(&[]);
    let expected = desk.text("out/shop_web_NetworkPolicy.yaml");
    let all = format!(
        "{NAMESPACE}---{WEB}---{FRONT}---\n{}",
        policy("web", FROM_FRONT)
    );
    let items: Vec<Value> = documents(&all);
    let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string();
    let lines: String = items.iter().map(|item| format!("{item}\n")).collect();

    let printed = |run: Run| {
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{run:?}");
        run.stdout
    };
    assert_eq!(
        printed(desk.run(&["-f", "in/web.yaml", "in/cluster.yaml"])),
        expected
    );
    assert_eq!(
        printed(desk.run(&["-f", "in/web.yaml", "-f", "in", "-o", "yaml"])),
        expected
    );
    assert_eq!(printed(desk.run_with(&["-f", "-"], &all)), expected);
    assert_eq!(printed(desk.run_with(&["-f", "-"], &list)), expected);
    assert_eq!(printed(desk.run_with(&["-f", "-"], &lines)), expected);
    let json: Value =
        serde_json::from_str(&printed(desk.run_with(&["-f", "-", "-o", "json"], &list))).unwrap();
    assert_eq!(json["kind"], "List");
    assert_eq!(json["items"], Value::from(documents(&expected)));
}

#[test]
fn a_dump_of_kubectl_is_read_with_all_that_it_brings() {
    let desk = Desk::usual();
    let mut dump = documents(&policy("web", FROM_FRONT)).remove(0);
    dump["metadata"]["managedFields"] =
        serde_json::json!([{"manager": "kubectl", "fieldsV1": {"f:spec": {".": {}}}}]);
    dump["metadata"]["resourceVersion"] = "77".into();
    dump["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
    dump["metadata"]["annotations"] =
        serde_json::json!({"kubectl.kubernetes.io/last-applied-configuration": "{}\n"});
    dump["status"] = serde_json::json!({});
    let deployment = serde_json::json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}});
    desk.put(
        "web.yaml",
        &serde_json::json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": [dump, deployment]}).to_string(),
    );
    let run = desk.write(&[]);
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{run:?}");
    assert_eq!(
        cidrs(&desk.text("out/shop_web_NetworkPolicy.yaml")),
        ["10.0.0.2/32"]
    );
}

#[test]
fn an_error_names_file_document_and_field_and_nothing_is_written() {
    let desk = Desk::usual();
    desk.put(
        "z.yaml",
        &format!(
            "{NAMESPACE}---\n{}",
            policy("bad", "{ports: [{port: 80, endPort: 70}]}")
        ),
    );
    let run = desk.write(&[]);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(
        run.stderr.contains(
            "in/z.yaml: document 2 (NetworkPolicy/shop/bad): spec.ingress[0].ports[0].endPort"
        ),
        "{run:?}"
    );
    assert!(run.stderr.contains("nothing written"), "{run:?}");
    assert!(!desk.path("out").exists());
    for (text, field) in [
        (
            "{from: [{ipBlock: {cidr: 10.0.0.300/8}}]}",
            "spec.ingress[0].from[0].ipBlock.cidr",
        ),
        (
            "{from: [{podSelector: {matchExpressions: [{key: a, operator: Is}]}}]}",
            "operator",
        ),
        ("{form: []}", "form"),
    ] {
        desk.put("z.yaml", &policy("bad", text));
        let run = desk.write(&[]);
        assert_eq!(run.code, Some(1), "{text}: {run:?}");
        assert!(run.stderr.contains(field), "{text}: {run:?}");
    }
    desk.put("z.yaml", "a: [b");
    let run = desk.write(&[]);
    assert!(
        run.code == Some(1) && run.stderr.contains("in/z.yaml: document 1"),
        "{run:?}"
    );
    assert!(!desk.path("out").exists());
}

#[test]
fn a_name_cannot_lead_out_of_the_folder() {
    let desk = Desk::usual();
    desk.put("web.yaml", &policy("../../web", FROM_FRONT));
    let run = desk.write(&[]);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stderr.contains("metadata.name"), "{run:?}");
    assert!(!desk.path("out").exists());
    desk.put("web.yaml", &policy("web", FROM_FRONT));
    desk.put(
        "cluster.yaml",
        &WEB.replace("name: web", "name: ../../../web"),
    );
    let run = desk.write(&["--workloads-dir", "wl", "--node", "n1"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(!desk.path("wl").exists());
}

#[test]
fn what_is_missing_is_an_error() {
    let desk = Desk::usual();
    let run = desk.run(&["-f", "in", "nowhere.yaml", "--output-dir", "out"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stderr.contains("nowhere.yaml: No such file"), "{run:?}");
    assert!(!desk.path("out").exists());
    assert_eq!(desk.run(&[]).code, Some(2), "-f is needed");
    assert_eq!(
        desk.write(&["--workloads-dir", "wl"]).code,
        Some(2),
        "--node is needed"
    );
}

#[test]
fn keep_going_leaves_out_what_is_broken_and_keeps_what_it_was() {
    let desk = Desk::usual();
    desk.put("old.yaml", &policy("old", "{}"));
    desk.write(&[]);
    let before = desk.text("out/shop_web_NetworkPolicy.yaml");
    desk.put(
        "web.yaml",
        &policy("web", "{ports: [{port: 80, endPort: 70}]}"),
    );
    desk.put("new.yaml", &policy("new", "{}"));
    desk.take("old.yaml");
    let run = desk.write(&["--keep-going"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stderr.contains("endPort"), "{run:?}");
    assert_eq!(desk.files("out"), ["shop_new_NetworkPolicy.yaml", WEB_FILE]);
    assert_eq!(desk.text("out/shop_web_NetworkPolicy.yaml"), before);
    // Nobody can say which policy a broken text was: none is removed.
    desk.put("web.yaml", "a: [b");
    desk.take("new.yaml");
    desk.write(&["--keep-going"]);
    assert_eq!(desk.files("out"), ["shop_new_NetworkPolicy.yaml", WEB_FILE]);
}

#[test]
fn only_marked_files_are_ever_removed_or_written_over() {
    let desk = Desk::usual();
    desk.put("gone.yaml", &policy("gone", "{}"));
    desk.write(&[]);
    let by_hand = "apiVersion: networking.k8s.aws/v1alpha1\nkind: PolicyEndpoint\nmetadata: {name: mine, namespace: shop}\n";
    fs::write(desk.path("out/mine.yaml"), by_hand).unwrap();
    fs::write(
        desk.path("out/notes.txt"),
        "podgate.dev/managed-by: nobody\n",
    )
    .unwrap();
    desk.take("gone.yaml");
    let run = desk.write(&[]);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(
        run.stdout
            .contains("removed out/shop_gone_NetworkPolicy.yaml\n"),
        "{run:?}"
    );
    assert_eq!(desk.files("out"), ["mine.yaml", "notes.txt", WEB_FILE]);

    desk.put("x.yaml", &policy("x", "{}"));
    fs::write(desk.path("out/shop_x_NetworkPolicy.yaml"), by_hand).unwrap();
    desk.put("web.yaml", &policy("web", "{}"));
    let before = desk.text("out/shop_web_NetworkPolicy.yaml");
    let run = desk.write(&[]);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(
        run.stderr
            .contains("out/shop_x_NetworkPolicy.yaml: is not marked"),
        "{run:?}"
    );
    assert_eq!(desk.text("out/shop_x_NetworkPolicy.yaml"), by_hand);
    assert_eq!(
        desk.text("out/shop_web_NetworkPolicy.yaml"),
        before,
        "nothing is written"
    );
}

#[test]
fn what_has_not_changed_is_not_written_again() {
    let desk = Desk::usual();
    desk.write(&["--workloads-dir", "wl", "--node", "n1"]);
    let inode = |path: &str| fs::metadata(desk.path(path)).unwrap().ino();
    let before = (
        inode("out/shop_web_NetworkPolicy.yaml"),
        inode("wl/shop/web.json"),
    );
    let run = desk.write(&["--workloads-dir", "wl", "--node", "n1"]);
    assert_eq!(run.stdout, "1 policy, 0 files changed\n");
    assert_eq!(
        before,
        (
            inode("out/shop_web_NetworkPolicy.yaml"),
            inode("wl/shop/web.json")
        )
    );
}

#[test]
fn diff_shows_and_writes_nothing_and_ends_as_diff_does() {
    let desk = Desk::usual();
    let run = desk.write(&["--diff"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(
        run.stdout
            .starts_with("--- /dev/null\n+++ out/shop_web_NetworkPolicy.yaml\n"),
        "{run:?}"
    );
    assert!(!desk.path("out").exists());
    desk.write(&[]);
    let run = desk.write(&["--diff"]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(0), ""), "{run:?}");
    desk.put(
        "cluster.yaml",
        &format!(
            "{NAMESPACE}---{WEB}---{}",
            FRONT.replace("10.0.0.2", "10.0.0.3")
        ),
    );
    let run = desk.write(&["--diff"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(
        run.stdout.contains("-  - cidr: 10.0.0.2/32\n")
            && run.stdout.contains("+  - cidr: 10.0.0.3/32\n"),
        "{run:?}"
    );
    desk.take("web.yaml");
    let run = desk.write(&["--diff"]);
    assert!(
        run.code == Some(1) && run.stdout.contains("+++ /dev/null\n"),
        "{run:?}"
    );
    assert_eq!(
        cidrs(&desk.text("out/shop_web_NetworkPolicy.yaml")),
        ["10.0.0.2/32"],
        "nothing is written"
    );
    desk.put("web.yaml", "a: [b");
    assert_eq!(desk.write(&["--diff"]).code, Some(2));
    assert_eq!(
        desk.run(&["-f", "in", "--diff"]).code,
        Some(2),
        "there is nothing to compare with"
    );
}

#[test]
fn workloads_are_the_pods_of_the_node() {
    let desk = Desk::usual();
    let host = "\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: host, namespace: shop, uid: u-host}\n\
                spec: {nodeName: n1, hostNetwork: true, containers: [{name: c, image: i}]}\nstatus: {phase: Running, podIP: 192.0.2.1}\n";
    desk.put(
        "cluster.yaml",
        &format!("{NAMESPACE}---{WEB}---{FRONT}{host}"),
    );
    let words = ["--workloads-dir", "wl", "--node", "n1"];
    let run = desk.write(&words);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_eq!(desk.files("wl"), ["shop/web.json"]);
    let pod: Value = serde_json::from_str(&desk.text("wl/shop/web.json")).unwrap();
    assert_eq!(pod["uid"], "u-web");
    assert_eq!(pod["labels"], serde_json::json!({"app": "web"}));
    assert_eq!(pod["self"], serde_json::json!(["10.0.0.1", "fd00::1"]));
    let lines: Vec<&str> = run.stdout.lines().collect();
    assert_eq!(
        lines[0], "created out/shop_web_NetworkPolicy.yaml",
        "documents come first"
    );
    assert_eq!(lines[1], "created wl/shop/web.json");

    // Another's file stays, ours goes with its pod; a broken manifest makes no pod go.
    fs::write(desk.path("wl/shop/other.json"), "{\"uid\": \"u\"}").unwrap();
    desk.put(
        "cluster.yaml",
        &format!("{NAMESPACE}---{}", WEB.replace("spec:", "specs: [")),
    );
    assert_eq!(
        desk.write(&[&words[..], &["--keep-going"]].concat()).code,
        Some(1)
    );
    assert_eq!(desk.files("wl"), ["shop/other.json", "shop/web.json"]);
    desk.put("cluster.yaml", &format!("{NAMESPACE}---{FRONT}"));
    assert_eq!(desk.write(&words).code, Some(0));
    assert_eq!(desk.files("wl"), ["shop/other.json"]);

    // Nor is another's written over, and then nothing is.
    fs::write(desk.path("wl/shop/web.json"), "{\"uid\": \"theirs\"}").unwrap();
    desk.put("cluster.yaml", &format!("{NAMESPACE}---{WEB}"));
    desk.put("x.yaml", &policy("x", "{}"));
    let run = desk.write(&words);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(
        run.stderr.contains("wl/shop/web.json: is not marked"),
        "{run:?}"
    );
    assert_eq!(desk.text("wl/shop/web.json"), "{\"uid\": \"theirs\"}");
    assert!(!desk.path("out/shop_x_NetworkPolicy.yaml").exists());
}

#[test]
fn what_has_no_effect_is_warned_of() {
    let desk = Desk::usual();
    desk.put(
        "web.yaml",
        &policy(
            "web",
            "{from: [{podSelector: {matchLabels: {app: none}}}], ports: [{port: nope}]}",
        ),
    );
    let twice = policy("twice", "{}") + "---\n" + &policy("twice", FROM_FRONT);
    desk.put(
        "zz.yaml",
        &(twice
            + "---\napiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: c}\n"),
    );
    let run = desk.write(&[]);
    assert_eq!(run.code, Some(0), "{run:?}");
    for line in [
        "warning: in/web.yaml: document 1 (NetworkPolicy/shop/web): spec.ingress[0].from[0]: selects no pod",
        "no selected pod has a port named \"nope\"",
        "warning: in/zz.yaml: document 2 (NetworkPolicy/shop/twice): holds instead of the one in in/zz.yaml: document 1",
        "warning: in/zz.yaml: document 3: CiliumNetworkPolicy/c: left out",
    ] {
        assert!(run.stderr.contains(line), "{line}\n{}", run.stderr);
    }
    assert_eq!(
        cidrs(&desk.text("out/shop_twice_NetworkPolicy.yaml")),
        ["10.0.0.2/32"]
    );
}

#[test]
fn a_service_of_which_only_some_backends_are_allowed_is_told_or_refused() {
    let service = "---\napiVersion: v1\nkind: Service\nmetadata: {name: all, namespace: shop}\n\
                   spec: {clusterIP: 10.96.0.9, clusterIPs: [10.96.0.9], selector: {tier: back}, ports: [{port: 80, protocol: TCP}]}\n";
    let back = |name: &str, ip: &str| {
        WEB.replace("name: web,", &format!("name: {name},"))
            .replace("app: web", &format!("app: {name}, tier: back"))
            .replace("10.0.0.1", ip)
    };
    let egress = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: out, namespace: shop}\n\
                  spec: {podSelector: {matchLabels: {app: front}}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {app: b1}}}]}]}\n";
    let desk = Desk::new(&[
        (
            "cluster.yaml",
            &format!(
                "{NAMESPACE}---{FRONT}---{}---{}{service}",
                back("b1", "10.0.0.5"),
                back("b2", "10.0.0.6")
            ),
        ),
        ("out.yaml", egress),
    ]);
    let run = desk.write(&[]);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(
        run.stderr
            .contains("Service shop/all is allowed though only some of its backends are"),
        "{run:?}"
    );
    assert!(
        desk.text("out/shop_out_NetworkPolicy.yaml")
            .contains("10.96.0.9/32")
    );
    let run = desk.write(&["--strict-services"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(
        !desk
            .text("out/shop_out_NetworkPolicy.yaml")
            .contains("10.96.0.9"),
        "{run:?}"
    );
}

/// A run that goes on; it ends with the test.
struct Watch {
    child: Child,
    stderr: PathBuf,
}

impl Watch {
    fn start(desk: &Desk, words: &[&str]) -> Self {
        let stderr = desk.path("stderr");
        let child = desk
            .command(&[words, &["--watch"]].concat())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&stderr).unwrap())
            .spawn()
            .unwrap();
        Self { child, stderr }
    }

    /// Looks until it is so, for ten seconds at most.
    fn until(&mut self, what: &str, so: impl Fn(&str) -> bool) {
        let begin = Instant::now();
        loop {
            let stderr = fs::read_to_string(&self.stderr).unwrap();
            if so(&stderr) {
                return;
            }
            assert!(
                self.child.try_wait().unwrap().is_none(),
                "it ended: {stderr}"
            );
            assert!(
                begin.elapsed() < Duration::from_secs(10),
                "in vain until {what}: {stderr}"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn watch_follows_the_files() {
    let desk = Desk::usual();
    let out = desk.path("out").join(WEB_FILE);
    let has =
        |path: &Path, part: &str| fs::read_to_string(path).is_ok_and(|text| text.contains(part));
    let mut watch = Watch::start(&desk, &["-f", "in", "--output-dir", "out"]);
    watch.until("the first pass", |_| has(&out, "10.0.0.2/32"));

    desk.put(
        "cluster.yaml",
        &format!(
            "{NAMESPACE}---{WEB}---{}",
            FRONT.replace("10.0.0.2", "10.0.0.3")
        ),
    );
    watch.until("an edit in place is taken", |_| has(&out, "10.0.0.3/32"));

    desk.put(
        ".new",
        &format!(
            "{NAMESPACE}---{WEB}---{}",
            FRONT.replace("10.0.0.2", "10.0.0.4")
        ),
    );
    fs::rename(desk.path("in/.new"), desk.path("in/cluster.yaml")).unwrap();
    watch.until("a rename is taken", |_| has(&out, "10.0.0.4/32"));

    desk.put("web.yaml", "a: [b");
    watch.until("a broken file is told", |stderr| {
        stderr.contains("in/web.yaml: document 1")
    });
    assert!(has(&out, "10.0.0.4/32"), "what is in force stays");
    desk.put("web.yaml", &policy("web", "{}"));
    watch.until("the mended file is taken", |_| has(&out, "0.0.0.0/0"));

    fs::create_dir(desk.path("in/new")).unwrap();
    desk.put("new/second.yaml", &policy("second", "{}"));
    watch.until("a new folder is followed", |_| {
        desk.path("out/shop_second_NetworkPolicy.yaml").exists()
    });
    desk.take("web.yaml");
    watch.until("a removed policy goes", |_| !out.exists());
    assert_eq!(desk.files("out"), ["shop_second_NetworkPolicy.yaml"]);
}

#[test]
fn watch_follows_a_single_file_that_an_editor_replaces() {
    let desk = Desk::usual();
    let out = desk.path("out").join(WEB_FILE);
    let mut watch = Watch::start(
        &desk,
        &[
            "-f",
            "in/web.yaml",
            "in/cluster.yaml",
            "--output-dir",
            "out",
        ],
    );
    watch.until("the first pass", |_| out.exists());
    desk.put(
        "swap",
        &policy("web", "{from: [{ipBlock: {cidr: 203.0.113.0/24}}]}"),
    );
    fs::rename(desk.path("in/swap"), desk.path("in/web.yaml")).unwrap();
    watch.until("the new file is taken", |_| {
        fs::read_to_string(&out).is_ok_and(|text| text.contains("203.0.113.0/24"))
    });
}

#[test]
fn watch_with_keep_going_keeps_a_broken_object_as_it_was() {
    let desk = Desk::usual();
    let out = desk.path("out").join(WEB_FILE);
    let has =
        |path: &Path, part: &str| fs::read_to_string(path).is_ok_and(|text| text.contains(part));
    let mut watch = Watch::start(&desk, &["-f", "in", "--output-dir", "out", "--keep-going"]);
    watch.until("the first pass", |_| has(&out, "10.0.0.2/32"));
    let broken = FRONT.replace("podIP: 10.0.0.2", "podIP: 10.0.0.x");
    desk.put("cluster.yaml", &format!("{NAMESPACE}---{WEB}---{broken}"));
    desk.put("new.yaml", &policy("new", "{}"));
    watch.until("the rest is taken", |stderr| {
        stderr.contains("Pod/shop/front") && desk.path("out/shop_new_NetworkPolicy.yaml").exists()
    });
    assert!(has(&out, "10.0.0.2/32"), "the peer stays");
}

#[test]
fn watch_goes_on_where_it_may_not_write() {
    let desk = Desk::usual();
    let out = desk.path("out").join(WEB_FILE);
    fs::create_dir(desk.path("out")).unwrap();
    fs::write(&out, "mine: true\n").unwrap();
    let mut watch = Watch::start(&desk, &["-f", "in", "--output-dir", "out"]);
    watch.until("it says so", |stderr| stderr.contains("is not marked"));
    assert_eq!(fs::read_to_string(&out).unwrap(), "mine: true\n");
    fs::remove_file(&out).unwrap();
    desk.put("web.yaml", &policy("web", "{}"));
    watch.until("the next change is taken", |_| out.exists());
}

/// A shell that redirects empties the file first, and an API that is down leaves it so.
#[test]
fn watch_keeps_what_an_emptied_cut_off_or_missing_input_gave() {
    let desk = Desk::usual();
    let out = desk.path("out").join(WEB_FILE);
    let stays = || {
        fs::read_to_string(&out)
            .is_ok_and(|text| text.contains("10.0.0.2/32") && text.contains("name: web"))
    };
    let inputs = [
        "-f",
        "in/cluster.yaml",
        "in/web.yaml",
        "in/more",
        "--output-dir",
        "out",
    ];
    let cluster = desk.text("in/cluster.yaml");
    desk.put("more/a.yaml", &policy("a", "{}"));
    let mut watch = Watch::start(&desk, &inputs);
    watch.until("the first pass", |_| stays());

    // Another input's change shows that the pass was made.
    let pass = |name: &str, watch: &mut Watch| {
        desk.put(&format!("more/{name}.yaml"), &policy(name, "{}"));
        let written = desk.path(&format!("out/shop_{name}_NetworkPolicy.yaml"));
        watch.until("others go on", |_| written.exists());
        assert!(stays(), "{name}");
    };
    desk.put("cluster.yaml", "");
    watch.until("it is told", |stderr| {
        stderr.contains("in/cluster.yaml: is empty") && stderr.contains("stays")
    });
    pass("b", &mut watch);
    desk.put("cluster.yaml", "# nothing yet\n---\n");
    pass("c", &mut watch);
    let list = format!(
        "apiVersion: v1\nitems:\n{}kind: List\n",
        "- {apiVersion: v1, kind: Pod, metadata: {name: x}}\n"
    );
    desk.put("cluster.yaml", &list[..list.len() - 12]);
    pass("d", &mut watch);
    desk.take("cluster.yaml");
    watch.until("it is told", |stderr| stderr.contains("No such file"));
    pass("e", &mut watch);
    desk.put("more/a.yaml", "");
    pass("f", &mut watch);
    assert!(desk.path("out/shop_a_NetworkPolicy.yaml").exists());

    desk.put("cluster.yaml", &cluster.replace("10.0.0.2", "10.0.0.7"));
    watch.until("what is whole again counts", |_| {
        fs::read_to_string(&out).is_ok_and(|text| text.contains("10.0.0.7/32"))
    });
    desk.put("cluster.yaml", "{apiVersion: v1, kind: List, items: []}");
    watch.until("an empty List is no accident", |_| {
        fs::read_to_string(&out).is_ok_and(|text| !text.contains("10.0.0.7/32"))
    });
}

#[test]
fn a_named_input_that_is_empty_is_an_error() {
    let desk = Desk::usual();
    assert_eq!(desk.write(&[]).code, Some(0));
    desk.put("cluster.yaml", "");
    let words = [
        "-f",
        "in/cluster.yaml",
        "in/web.yaml",
        "--output-dir",
        "out",
    ];
    let before = desk.text(&format!("out/{WEB_FILE}"));
    let run = desk.run(&words);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stderr.contains("in/cluster.yaml: is empty"), "{run:?}");
    assert_eq!(desk.text(&format!("out/{WEB_FILE}")), before);
    let run = desk.run_with(&["-f", "-", "in/web.yaml", "--output-dir", "out"], "\n");
    assert_eq!(run.code, Some(1), "{run:?}");
}

/// As git-sync has it: the folder that is named is a link's target, and the link is swapped elsewhere.
#[test]
fn watch_notices_a_link_that_is_swapped_outside_of_the_folder() {
    use std::os::unix::fs::symlink;

    let desk = Desk::usual();
    for (revision, rule) in [("one", FROM_FRONT), ("two", "{}")] {
        let folder = desk.path("git").join(revision).join("policies");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("web.yaml"), policy("web", rule)).unwrap();
    }
    desk.take("web.yaml");
    symlink("one", desk.path("git/current")).unwrap();
    symlink("../git/current/policies", desk.path("in/policies")).unwrap();
    let out = desk.path("out").join(WEB_FILE);
    let has = |part: &str| fs::read_to_string(&out).is_ok_and(|text| text.contains(part));
    let mut watch = Watch::start(&desk, &["-f", "in", "--output-dir", "out"]);
    watch.until("the first pass", |_| has("10.0.0.2/32"));
    symlink("two", desk.path("git/new")).unwrap();
    fs::rename(desk.path("git/new"), desk.path("git/current")).unwrap();
    watch.until("the swap is taken at once", |_| has("0.0.0.0/0"));
}

#[test]
fn the_longest_name_of_a_pod_does_not_stop_those_behind_it() {
    let desk = Desk::usual();
    let long = format!("a{}", ".b".repeat(126));
    let pod = |name: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: shop, uid: u-{}}}, spec: {{nodeName: n1}}}}",
            name.len()
        )
    };
    desk.put("long.yaml", &format!("{}\n---\n{}", pod(&long), pod("zz")));
    desk.put("policy.yaml", &policy(&long, "{}"));
    let run = desk.write(&["--workloads-dir", "wl", "--node", "n1"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    let files = desk.files("wl");
    assert_eq!(files.len(), 3, "{files:?}");
    assert!(desk.path("wl/shop/zz.json").exists());
    let short = files.iter().find(|name| name.contains('~')).unwrap();
    let pod: Value = serde_json::from_str(&desk.text(&format!("wl/{short}"))).unwrap();
    assert_eq!(pod["name"], long.as_str());
    assert!(desk.files("out").iter().all(|name| name.len() <= 200));
    assert!(
        desk.files("out")
            .iter()
            .any(|name| name.starts_with("shop_a.b") && name.contains('~'))
    );
    // The same names again: nothing to do.
    let run = desk.write(&["--workloads-dir", "wl", "--node", "n1"]);
    assert!(run.stdout.contains("0 files changed"), "{run:?}");
}

#[test]
fn rendered_charts_get_their_namespace_and_hosts_can_be_left_out() {
    let desk = Desk::new(&[(
        "all.yaml",
        "{apiVersion: v1, kind: Pod, metadata: {name: h}, spec: {hostNetwork: true}, status: {podIP: 192.0.2.9}}\n---\n\
         {apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p}, spec: {podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}}\n",
    )]);
    let run = desk.write(&["-n", "team"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    let file = "out/team_p_NetworkPolicy.yaml";
    assert!(desk.text(file).contains("192.0.2.9/32"));
    assert!(
        desk.text(file)
            .contains("podgate.dev/host-network-peer: team/h")
    );
    let run = desk.write(&["-n", "team", "--host-network-peers=ignore"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(!desk.text(file).contains("192.0.2.9"));
    assert_eq!(desk.write(&["-n", "Team"]).code, Some(1));
}

#[test]
fn help_and_man_page_tell_of_it() {
    let desk = Desk::usual();
    let help = desk.run(&["--help"]);
    for word in [
        "--output-dir",
        "--workloads-dir",
        "--keep-going",
        "--strict-services",
        "--diff",
        "--watch",
        "Ends with 0",
    ] {
        assert!(help.stdout.contains(word), "{word}: {}", help.stdout);
    }
    let man = Command::new(env!("CARGO_BIN_EXE_podgatectl"))
        .args(["man", "pages"])
        .current_dir(desk.0.path())
        .status()
        .unwrap();
    assert!(man.success());
    assert!(
        desk.text("pages/podgatectl-resolve.1")
            .contains("strict\\-services")
    );
}
