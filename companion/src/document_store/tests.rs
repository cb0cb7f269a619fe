//! Files come, change, break and go; the clock is an argument.

use std::fs;
use std::path::PathBuf;

use policy::documents::Condition;

use super::*;

struct Snapshot {
    dir: tempfile::TempDir,
    store: Store,
    documents: DocumentStore,
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

impl Snapshot {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(dir.path().join("s")).unwrap();
        let mut scene = Self {
            documents: DocumentStore::restore(&store),
            dir,
            store,
            now: Instant::now(),
        };
        scene.documents.begin(scene.now, || {});
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("s/policies").join(name)
    }

    fn tell(&mut self, name: &str) -> bool {
        self.documents.file(&RelPath::new(name).unwrap(), self.now)
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
        while self.documents.due().is_some_and(|due| due <= self.now) {
            changed |= self.documents.advance(self.now);
        }
        changed
    }

    fn ports(&self) -> Vec<u16> {
        let documents = self
            .documents
            .policies()
            .values()
            .flat_map(|p| &p.documents);
        let rules = documents.flat_map(|d| &d.ingress);
        let mut ports: Vec<u16> = rules
            .flat_map(|r| r.ports.iter().filter_map(|p| Some(p.ports?.0)))
            .collect();
        ports.sort_unstable();
        ports
    }

    fn conditions(&mut self) -> Vec<(String, Condition)> {
        self.documents.refresh_conditions();
        let all = self.documents.documents();
        all.map(|d| (d.file.clone(), d.condition)).collect()
    }

    fn restart(&mut self) {
        // It ends with everything written.
        self.documents.writer = None;
        self.documents = DocumentStore::restore(&self.store);
        self.documents.begin(self.now, || {});
    }
}

#[test]
fn unmarked_documents_wait_until_it_is_quiet_but_not_for_ever() {
    let mut s = Snapshot::new();
    assert!(!s.put("a.yaml", &document("a", 1, None)));
    assert!(s.documents.is_settling());
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
    let mut s = Snapshot::new();
    assert!(s.put("a.yaml", &document("a", 1, Some((1, 2)))));
    assert_eq!(s.ports(), [1], "nothing was before: what is there isolates");
    assert_eq!(
        s.conditions(),
        [("a.yaml".to_owned(), Condition::Incomplete)]
    );
    assert!(s.put("b.yaml", &document("b", 2, Some((1, 2)))));
    assert_eq!(s.ports(), [1, 2]);
    assert!(!s.put("a.yaml", &document("a", 3, Some((2, 2)))));
    assert_eq!(s.ports(), [1, 2], "the set before stays as a whole");
    assert!(s.put("b.yaml", &document("b", 4, Some((2, 2)))));
    assert_eq!(s.ports(), [3, 4]);
}

#[test]
fn a_removal_counts_after_50_ms_and_a_rename_is_none() {
    let mut s = Snapshot::new();
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
    assert!(!s.documents.is_settling(), "as it was");
    s.after(500);
    assert_eq!(s.ports(), [1]);
}

#[test]
fn a_broken_file_keeps_what_it_held_also_over_a_restart() {
    let mut s = Snapshot::new();
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
        assert!(!s.documents.broken_files().is_empty());
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
    let mut s = Snapshot::new();
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
    let isolated = s
        .documents
        .policies()
        .values()
        .any(|p| p.isolates().ingress);
    assert!(isolated);
    assert!(
        s.conditions()
            .contains(&("n.yaml".to_owned(), Condition::Broken))
    );
}

#[test]
fn of_two_files_with_one_document_the_one_in_force_stays() {
    let mut s = Snapshot::new();
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
    let mut s = Snapshot::new();
    assert!(s.documents.index().namespaces.is_empty());
    s.put("a.yaml", &document("a", 1, None));
    // Not in force yet, and it could select.
    assert!(s.documents.index().namespaces.contains("shop"));
    assert_eq!(
        s.documents.index().listing_digest,
        s.store.scan_documents().unwrap().digest
    );
    s.after(100);
    s.remove("a.yaml");
    // Gone, and still in force.
    assert!(s.documents.index().namespaces.contains("shop"));
    s.after(50);
    assert!(s.documents.index().namespaces.is_empty());
    let cluster = "apiVersion: networking.k8s.aws/v1alpha1\nkind: ClusterPolicyEndpoint\nmetadata: {name: c}\n\
                   spec: {policyRef: {name: c}, tier: Admin, priority: 5, ingress: [{cidr: 10.0.0.1, action: Deny}]}\n";
    s.put("c.yaml", cluster);
    assert!(s.documents.index().cluster_wide);
}

#[test]
fn a_file_written_in_place_is_read_again() {
    let mut s = Snapshot::new();
    fs::write(s.path("a.yaml"), document("a", 1, Some((1, 1)))).unwrap();
    assert!(s.tell("a.yaml"));
    assert_eq!(s.ports(), [1]);
    // Written again within the tick of the clock, and nobody tells: the second look finds it.
    fs::write(s.path("a.yaml"), document("a", 2, Some((2, 1)))).unwrap();
    std::thread::sleep(Duration::from_millis(60));
    s.after(60);
    assert_eq!(s.ports(), [2]);
}

fn of_policy(policy: &str, port: u16) -> String {
    document(policy, port, None).replace("name: p,", &format!("name: {policy},"))
}

#[test]
fn each_policy_settles_by_itself() {
    let mut s = Snapshot::new();
    s.put("a.yaml", &of_policy("a", 1));
    for n in 0..10 {
        s.put("other.yaml", &of_policy("other", 1000 + n));
        s.after(60);
        if n == 1 {
            assert!(
                s.ports().contains(&1),
                "120 ms, and only the other one changed"
            );
        }
    }
    // Two documents of one file, one of which changes.
    let two = |b: u16| format!("{}{}", of_policy("c", 7), of_policy("d", b));
    s.put("two.yaml", &two(8));
    s.after(1000);
    s.put("two.yaml", &two(9));
    assert_eq!(s.documents.settling.len(), 1);
    s.after(100);
    assert!(s.ports().contains(&9));
}

#[test]
fn what_is_there_of_a_first_version_is_in_force_and_blocks_first_decisions() {
    let mut s = Snapshot::new();
    s.put("a.yaml", &document("a", 1, Some((1, 2))));
    assert_eq!(s.ports(), [1]);
    assert!(
        s.documents
            .policies()
            .values()
            .all(|p| p.isolates().ingress)
    );
    let blockers = s.documents.blockers("shop");
    assert_eq!(blockers.len(), 1, "{blockers:?}");
    assert!(s.documents.blockers("elsewhere").is_empty());
    // It is no complete version, so nothing of it stays when another one begins.
    s.restart();
    s.after(1000);
    assert_eq!(s.documents.blockers("shop"), blockers);
    s.put("b.yaml", &document("b", 4, Some((2, 2))));
    assert_eq!(s.ports(), [4]);
    s.put("a.yaml", &document("a", 3, Some((2, 2))));
    assert_eq!(s.ports(), [3, 4]);
    assert!(!blockers.iter().any(|one| s.documents.stands(one)));
    assert!(s.documents.blockers("shop").is_empty());
}

#[test]
fn half_of_a_version_before_a_restart_leaves_the_complete_one_in_force() {
    let mut s = Snapshot::new();
    s.put("a.yaml", &document("a", 1, Some((1, 2))));
    s.put("b.yaml", &document("b", 2, Some((1, 2))));
    assert_eq!(s.ports(), [1, 2]);
    s.put("a.yaml", &document("a", 3, Some((2, 2))));
    assert_eq!(s.ports(), [1, 2]);
    for _ in 0..2 {
        s.restart();
        s.after(1000);
        assert_eq!(s.ports(), [1, 2]);
        assert!(
            s.documents.blockers("shop").is_empty(),
            "a complete version is in force"
        );
    }
    s.put("b.yaml", &document("b", 4, Some((2, 2))));
    assert_eq!(s.ports(), [3, 4]);
    s.restart();
    assert_eq!(s.ports(), [3, 4]);
    // Broken, cut off, and gone one after the other: none of it is a version.
    s.put("a.yaml", &document("a", 5, Some((3, 2)))[..60]);
    s.after(1000);
    s.restart();
    s.after(1000);
    assert_eq!(s.ports(), [3, 4]);
}

#[test]
fn a_read_that_fails_is_tried_again_without_a_touch_of_the_file() {
    let mut s = Snapshot::new();
    s.put("a.yaml", &of_policy("a", 1));
    s.after(1000);
    let outside = tempfile::tempdir().unwrap();
    let (one, two) = (outside.path().join("one"), outside.path().join("two"));
    // The kernel refuses it with ELOOP; the link itself is never touched again.
    std::os::unix::fs::symlink(&two, &one).unwrap();
    std::os::unix::fs::symlink(&one, &two).unwrap();
    fs::remove_file(s.path("a.yaml")).unwrap();
    std::os::unix::fs::symlink(&one, s.path("a.yaml")).unwrap();
    s.tell("a.yaml");
    s.documents.refresh_conditions();
    assert!(s.documents.is_settling());
    let listed = s.documents.broken_files();
    assert!(listed[0].message.contains("trying again"), "{listed:?}");
    assert!(s.documents.index().cluster_wide, "it could select any pod");
    assert_eq!(s.documents.blockers("elsewhere").len(), 1);
    s.after(10_000);
    assert_eq!(s.ports(), [1], "what it held stays");
    fs::remove_file(&one).unwrap();
    fs::write(&one, of_policy("a", 2)).unwrap();
    s.after(10_000);
    s.after(100);
    assert_eq!(s.ports(), [2]);
    assert!(!s.documents.is_settling());
    assert!(s.documents.broken_files().is_empty());
}

#[test]
fn later_documents_do_not_prolong_the_wait_of_a_first_decision() {
    let mut s = Snapshot::new();
    s.put("a.yaml", &of_policy("a", 1));
    let blockers = s.documents.blockers("shop");
    assert_eq!(blockers.len(), 1);
    assert!(s.documents.blockers("elsewhere").is_empty());
    s.after(50);
    s.put("b.yaml", &of_policy("b", 2));
    s.after(60);
    assert!(!blockers.iter().any(|one| s.documents.stands(one)));
    s.put("a.yaml", &of_policy("a", 3));
    assert!(
        !blockers.iter().any(|one| s.documents.stands(one)),
        "a wait of its own"
    );
    assert_eq!(s.documents.blockers("shop").len(), 2);
}

#[test]
fn a_failed_write_of_applied_is_tried_again() {
    let mut s = Snapshot::new();
    let applied = s.store.layout().applied();
    fs::remove_dir(&applied).unwrap();
    fs::write(&applied, "in the way").unwrap();
    s.put("a.yaml", &of_policy("a", 1));
    s.after(1000);
    let wait = |what: &str, is: &dyn Fn() -> bool| {
        let begin = std::time::Instant::now();
        while !is() {
            assert!(begin.elapsed() < Duration::from_secs(20), "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    wait("it is told", &|| !s.documents.problems().is_empty());
    fs::remove_file(&applied).unwrap();
    wait("it is written", &|| {
        !s.store.applied().unwrap().policies.is_empty()
    });
    wait("it is over", &|| s.documents.problems().is_empty());
}
