//! Files come, change, break and go; the clock is an argument.

use std::fs;
use std::path::PathBuf;

use super::*;

struct Scene {
    dir: tempfile::TempDir,
    store: Store,
    intake: Intake,
    now: Instant,
}

fn document(name: &str, port: u16, marks: Option<(u32, u32)>) -> String {
    let marks = marks.map_or(String::new(), |(generation, parts)| {
        format!("annotations: {{podgate.dev/generation: \"{generation}\", podgate.dev/parts: \"{parts}\"}}, ")
    });
    format!(
        "---\napiVersion: networking.k8s.aws/v1alpha1\nkind: PolicyEndpoint\nmetadata: {{{marks}name: {name}, namespace: shop}}\n\
         spec: {{policyRef: {{name: p, namespace: shop}}, podSelector: {{}}, ingress: [{{cidr: 10.0.0.1, ports: [{{port: {port}, protocol: TCP}}]}}]}}\n"
    )
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(dir.path().join("s")).unwrap();
        let mut scene = Self {
            intake: Intake::new(&store),
            dir,
            store,
            now: Instant::now(),
        };
        scene.intake.begin(scene.now);
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("s/policies").join(name)
    }

    fn tell(&mut self, name: &str) -> bool {
        self.intake.file(&RelPath::new(name).unwrap(), self.now)
    }

    fn put(&mut self, name: &str, text: &str) -> bool {
        let hidden = self.path(&format!(".{name}"));
        fs::write(&hidden, text).unwrap();
        fs::rename(hidden, self.path(name)).unwrap();
        self.tell(name)
    }

    fn remove(&mut self, name: &str) -> bool {
        fs::remove_file(self.path(name)).unwrap();
        self.tell(name)
    }

    /// Time goes by, as the engine's clock has it.
    fn after(&mut self, ms: u64) -> bool {
        self.now += Duration::from_millis(ms);
        let mut changed = false;
        while self.intake.due().is_some_and(|due| due <= self.now) {
            changed |= self.intake.settle(self.now);
        }
        changed
    }

    fn ports(&self) -> Vec<u16> {
        let documents = self.intake.policies().values().flat_map(|p| &p.documents);
        let rules = documents.flat_map(|d| &d.ingress);
        let mut ports: Vec<u16> = rules
            .flat_map(|r| r.ports.iter().filter_map(|p| Some(p.ports?.0)))
            .collect();
        ports.sort_unstable();
        ports
    }

    fn conditions(&mut self) -> Vec<(String, Condition)> {
        let all = self.intake.conditions();
        all.documents
            .iter()
            .map(|d| (d.file.clone(), d.condition))
            .collect()
    }

    fn restart(&mut self) {
        while self.intake.keep_one() {}
        self.intake = Intake::new(&self.store);
        self.intake.begin(self.now);
    }
}

#[test]
fn unmarked_documents_wait_until_it_is_quiet_but_not_for_ever() {
    let mut s = Scene::new();
    assert!(!s.put("a.yaml", &document("a", 1, None)));
    assert!(s.intake.is_settling());
    assert!(!s.after(99));
    assert!(s.after(1));
    assert_eq!(s.ports(), [1]);
    for port in 2..14 {
        s.put("a.yaml", &document("a", port, None));
        s.after(90);
    }
    // Ten changes, 90 ms apart: the second was over meanwhile.
    assert!(s.ports()[0] > 1);
    s.after(100);
    assert_eq!(s.ports(), [13]);
}

#[test]
fn marked_documents_count_at_once_and_only_complete() {
    let mut s = Scene::new();
    assert!(s.put("a.yaml", &document("a", 1, Some((1, 2)))));
    assert_eq!(s.ports(), [0u16; 0]);
    assert_eq!(
        s.conditions(),
        [("a.yaml".to_owned(), Condition::Incomplete)]
    );
    assert!(s.put("b.yaml", &document("b", 2, Some((1, 2)))));
    assert_eq!(s.ports(), [1, 2]);
    assert!(s.put("a.yaml", &document("a", 3, Some((2, 2)))));
    assert_eq!(s.ports(), [1, 2], "the set before stays as a whole");
    assert!(s.put("b.yaml", &document("b", 4, Some((2, 2)))));
    assert_eq!(s.ports(), [3, 4]);
}

#[test]
fn a_removal_counts_after_50_ms_and_a_rename_is_none() {
    let mut s = Scene::new();
    s.put("a.yaml", &document("a", 1, None));
    s.after(100);
    s.remove("a.yaml");
    assert!(!s.after(49));
    assert_eq!(s.ports(), [1]);
    assert!(s.after(1));
    assert_eq!(s.ports(), [0u16; 0]);

    s.put("a.yaml", &document("a", 1, None));
    s.after(100);
    // Renamed: the removal waits for what is new.
    s.put("b.yaml", &document("a", 1, None));
    s.remove("a.yaml");
    s.after(60);
    assert_eq!(s.ports(), [1]);
    s.after(40);
    assert_eq!(s.ports(), [1]);
    assert_eq!(s.conditions(), [("b.yaml".to_owned(), Condition::Applied)]);
    // An editor: gone and there again within the time.
    s.remove("b.yaml");
    s.after(30);
    s.put("b.yaml", &document("a", 1, None));
    assert!(!s.intake.is_settling(), "as it was");
    s.after(500);
    assert_eq!(s.ports(), [1]);
}

#[test]
fn a_broken_file_keeps_what_it_held_also_over_a_restart() {
    let mut s = Scene::new();
    s.put(
        "a.yaml",
        &format!("{}{}", document("a", 1, None), document("b", 2, None)),
    );
    s.put("good.yaml", &document("c", 3, None));
    s.after(100);
    assert_eq!(s.ports(), [1, 2, 3]);
    for broken in [
        "",
        "kind: [",
        "kind: ConfigMap\napiVersion: v1\nmetadata: {name: x}\n",
        "\0\u{1}",
    ] {
        s.put("a.yaml", broken);
        s.after(1000);
        assert_eq!(s.ports(), [1, 2, 3], "{broken:?}");
        let (a, condition) = s.conditions().remove(0);
        assert_eq!(
            (a.as_str(), condition),
            ("a.yaml", Condition::Broken),
            "{broken:?}"
        );
        assert!(!s.intake.conditions().files.is_empty());
    }
    s.restart();
    s.after(1000);
    assert_eq!(s.ports(), [1, 2, 3]);
    // A folder in its place, a link that leads nowhere: there, and nothing readable.
    fs::remove_file(s.path("a.yaml")).unwrap();
    std::os::unix::fs::symlink("/nonexistent/x", s.path("a.yaml")).unwrap();
    s.tell("a.yaml");
    s.after(1000);
    assert_eq!(s.ports(), [1, 2, 3]);
    // It reads well and no longer holds one of them: that one is gone.
    fs::remove_file(s.path("a.yaml")).unwrap();
    s.put("a.yaml", &document("a", 9, None));
    s.after(1000);
    assert_eq!(s.ports(), [3, 9]);
    s.remove("a.yaml");
    s.after(1000);
    s.restart();
    assert_eq!(s.ports(), [3]);
}

#[test]
fn one_broken_document_of_a_file_keeps_its_last_version_alone() {
    let mut s = Scene::new();
    s.put(
        "a.yaml",
        &format!("{}{}", document("a", 1, None), document("b", 2, None)),
    );
    s.after(100);
    let broken = document("b", 2, None).replace("10.0.0.1", "10.0.0.999");
    s.put("a.yaml", &format!("{}{broken}", document("a", 7, None)));
    s.after(100);
    assert_eq!(s.ports(), [2, 7]);
    // Never seen good: it isolates what it can be seen to select.
    let new = document("n", 5, None).replace("10.0.0.1", "10.0.0.999");
    s.put("n.yaml", &new);
    s.after(100);
    assert_eq!(s.ports(), [2, 7]);
    let isolated = s.intake.policies().values().any(|p| p.isolates().ingress);
    assert!(isolated);
    assert!(
        s.conditions()
            .contains(&("n.yaml".to_owned(), Condition::Broken))
    );
}

#[test]
fn of_two_files_with_one_document_the_one_in_force_stays() {
    let mut s = Scene::new();
    s.put("z.yaml", &document("a", 1, None));
    s.after(100);
    s.put("a.yaml", &document("a", 2, None));
    s.after(100);
    assert_eq!(s.ports(), [1]);
    assert!(
        s.conditions()
            .contains(&("a.yaml".to_owned(), Condition::Duplicate))
    );
    s.restart();
    assert_eq!(s.ports(), [1], "over a restart too");
    s.remove("z.yaml");
    s.after(100);
    assert_eq!(s.ports(), [2]);
}

#[test]
fn the_index_counts_what_is_in_force_and_what_is_yet_to_be() {
    let mut s = Scene::new();
    assert!(s.intake.index().namespaces.is_empty());
    s.put("a.yaml", &document("a", 1, None));
    // Not in force yet, and it could select.
    assert!(s.intake.index().namespaces.contains("shop"));
    assert_eq!(
        s.intake.index().listing_digest,
        s.store.scan_documents().unwrap().digest
    );
    s.after(100);
    s.remove("a.yaml");
    // Gone, and still in force.
    assert!(s.intake.index().namespaces.contains("shop"));
    s.after(50);
    assert!(s.intake.index().namespaces.is_empty());
    let cluster = "apiVersion: networking.k8s.aws/v1alpha1\nkind: ClusterPolicyEndpoint\nmetadata: {name: c}\n\
                   spec: {policyRef: {name: c}, tier: Admin, priority: 5, ingress: [{cidr: 10.0.0.1, action: Deny}]}\n";
    s.put("c.yaml", cluster);
    assert!(s.intake.index().cluster_wide);
}

#[test]
fn a_file_written_in_place_is_read_again() {
    let mut s = Scene::new();
    fs::write(s.path("a.yaml"), document("a", 1, Some((1, 1)))).unwrap();
    assert!(s.tell("a.yaml"));
    assert_eq!(s.ports(), [1]);
    // Written again within the tick of the clock, and nobody tells: the second look finds it.
    fs::write(s.path("a.yaml"), document("a", 2, Some((2, 1)))).unwrap();
    std::thread::sleep(Duration::from_millis(60));
    s.after(60);
    assert_eq!(s.ports(), [2]);
}
