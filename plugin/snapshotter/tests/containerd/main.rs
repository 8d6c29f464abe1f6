//! The snapshotter under a real containerd: landing by alias, pulls, long chains, collection, repair. Needs root,
//! containerd, ctr, runc with its shim, and busybox.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod host;

use std::{collections::HashMap, fs, path::Path};

use containerd_client::{
    services::v1::snapshots::{
        ListSnapshotsRequest, MountsRequest, PrepareSnapshotRequest, RemoveSnapshotRequest,
        StatSnapshotRequest, ViewSnapshotRequest, snapshots_client::SnapshotsClient,
    },
    tonic::{Code, Request, Status, transport::Channel},
    with_namespace,
};
use host::{File, Host, image, versions};
use shipway_snapshotter::{CommitInfo, LayerId, LayerStore, REFERENCE_LABEL};

const BUSYBOX: &str = "/bin/busybox";

struct Snapshots(SnapshotsClient<Channel>);

impl Snapshots {
    /// What the exporter does for one layer of an image.
    async fn land(&mut self, namespace: &str, chain_id: &str, parent: &str) -> Result<(), Status> {
        let labels = [
            (REFERENCE_LABEL, chain_id),
            ("containerd.io/gc.root", "test"),
        ];
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let request = PrepareSnapshotRequest {
            snapshotter: "shipway".into(),
            key: format!("shipway-landing-{chain_id}"),
            parent: parent.into(),
            labels: HashMap::from(labels),
        };
        self.0
            .prepare(with_namespace!(request, namespace))
            .await
            .map(drop)
    }

    async fn has(&mut self, namespace: &str, key: &str) -> bool {
        let request = StatSnapshotRequest {
            snapshotter: "shipway".into(),
            key: key.into(),
        };
        match self.0.stat(with_namespace!(request, namespace)).await {
            Ok(_) => true,
            Err(status) => {
                assert_eq!(status.code(), Code::NotFound, "{status}");
                false
            }
        }
    }

    async fn remove(&mut self, namespace: &str, key: &str) {
        let request = RemoveSnapshotRequest {
            snapshotter: "shipway".into(),
            key: key.into(),
        };
        self.0
            .remove(with_namespace!(request, namespace))
            .await
            .unwrap();
    }

    /// Lower directories of a view, nearest first.
    async fn lower(&mut self, namespace: &str, parent: &str) -> Vec<String> {
        let request = ViewSnapshotRequest {
            snapshotter: "shipway".into(),
            key: "view".into(),
            parent: parent.into(),
            // Without it a collection at the wrong moment takes the view.
            labels: HashMap::from([("containerd.io/gc.root".into(), "test".into())]),
        };
        self.0
            .view(with_namespace!(request, namespace))
            .await
            .unwrap();
        let request = MountsRequest {
            snapshotter: "shipway".into(),
            key: "view".into(),
        };
        let mounts = self
            .0
            .mounts(with_namespace!(request, namespace))
            .await
            .unwrap();
        self.remove(namespace, "view").await;
        let mount = &mounts.into_inner().mounts[0];
        let option = mount
            .options
            .iter()
            .find_map(|o| o.strip_prefix("lowerdir="));
        option
            .unwrap_or(&mount.source)
            .split(':')
            .map(str::to_owned)
            .collect()
    }

    async fn count(&mut self, namespace: &str) -> usize {
        let request = ListSnapshotsRequest {
            snapshotter: "shipway".into(),
            filters: vec![],
        };
        let mut stream = self
            .0
            .list(with_namespace!(request, namespace))
            .await
            .unwrap()
            .into_inner();
        let mut count = 0;
        while let Some(batch) = stream.message().await.unwrap() {
            count += batch.info.len();
        }
        count
    }
}

fn build_step(store: &LayerStore, file: &str, content: &[u8]) -> LayerId {
    let layer = store.create().unwrap();
    let path = layer.fs.join(file);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
    store
        .commit(
            layer.id,
            CommitInfo {
                owners: vec!["cache".into()],
                ..CommitInfo::default()
            },
        )
        .unwrap();
    layer.id
}

fn path(store: &LayerStore, id: LayerId) -> String {
    store.path(id).unwrap().display().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn built_layers_land_in_two_namespaces_and_live_until_the_last_lets_go() {
    for version in versions() {
        two_namespaces(&Host::start(version).await).await;
    }
}

async fn two_namespaces(host: &Host) {
    let store = &host.store;
    let mut snapshots = Snapshots(host.client().await.snapshots());
    let base = build_step(store, "base", b"base");
    let top = build_step(store, "top", b"top");
    let chain = [
        ("sha256:base".to_owned(), base),
        ("sha256:top".to_owned(), top),
    ];

    // Nothing on offer: an ordinary active snapshot.
    snapshots.land("one", "sha256:base", "").await.unwrap();
    snapshots.remove("one", "shipway-landing-sha256:base").await;

    for namespace in ["one", "two"] {
        let _offer = store.offer(namespace, chain.clone()).unwrap();
        for (chain_id, parent) in [("sha256:base", ""), ("sha256:top", "sha256:base")] {
            let landed = snapshots
                .land(namespace, chain_id, parent)
                .await
                .unwrap_err();
            assert_eq!(landed.code(), Code::AlreadyExists, "{landed}");
            assert!(snapshots.has(namespace, chain_id).await);
        }
        assert_eq!(
            snapshots.lower(namespace, "sha256:top").await,
            [path(store, top), path(store, base)]
        );
    }
    let committed = store.entries(&["kind==committed".into()]).unwrap();
    assert_eq!(committed.len(), 2, "both namespaces share the aliases");

    // The cache record goes, the images stay, through a collection too.
    store.disown(&["cache"]).unwrap();
    host.collect("one").await;
    assert!(snapshots.has("one", "sha256:top").await);

    for chain_id in ["sha256:top", "sha256:base"] {
        snapshots.remove("one", chain_id).await;
    }
    host.collect("one").await;
    assert_eq!(
        snapshots.lower("two", "sha256:top").await,
        [path(store, top), path(store, base)]
    );

    for chain_id in ["sha256:top", "sha256:base"] {
        snapshots.remove("two", chain_id).await;
    }
    host.collect("two").await;
    assert!(store.entries(&[]).unwrap().is_empty());
    assert!(store.list().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_imported_image_of_two_hundred_layers_runs() {
    for version in versions() {
        two_hundred_layers(&Host::start(version).await).await;
    }
}

async fn two_hundred_layers(host: &Host) {
    let busybox = fs::read(BUSYBOX).unwrap();
    let numbers: Vec<String> = (0..200).map(|n| format!("layers/{n}")).collect();
    let mut layers: Vec<Vec<File<'_>>> = numbers
        .iter()
        .map(|n| vec![(n.as_str(), 0o644, n.as_bytes())])
        .collect();
    layers[0].push(("bin/busybox", 0o755, &busybox));
    let archive = host.dir.path().join("image.tar");
    let chain = image(&archive, "test/long:1", &layers);

    let archive = archive.display().to_string();
    host.ctr(
        "default",
        &["images", "import", "--snapshotter", "shipway", &archive],
    )
    .await;
    let run = [
        "run",
        "--rm",
        "--snapshotter",
        "shipway",
        "test/long:1",
        "it",
        "/bin/busybox",
    ];
    let listed = host
        .ctr("default", &[&run[..], &["ls", "/layers"]].concat())
        .await;
    assert_eq!(listed.split_whitespace().count(), 200);
    let script = "echo new >/layers/0; /bin/busybox cat /layers/0";
    let changed = host
        .ctr("default", &[&run[..], &["sh", "-c", script]].concat())
        .await;
    assert_eq!(changed.trim(), "new");

    let mut snapshots = Snapshots(host.client().await.snapshots());
    assert_eq!(snapshots.count("default").await, 200);
    assert_eq!(host.store.find_chain(&chain[199]).unwrap().len(), 200);

    host.ctr("default", &["images", "rm", "--sync", "test/long:1"])
        .await;
    assert!(
        host.store.list().is_empty(),
        "the collection leaves nothing"
    );
    let left = fs::read_dir(host.dir.path().join("store/layers"))
        .unwrap()
        .count();
    let trash = fs::read_dir(host.dir.path().join("store/trash"))
        .unwrap()
        .count();
    assert_eq!((left, trash), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_lands_on_a_base_that_was_pulled() {
    for version in versions() {
        pulled_base(&Host::start(version).await).await;
    }
}

async fn pulled_base(host: &Host) {
    let busybox = fs::read(BUSYBOX).unwrap();
    let archive = host.dir.path().join("image.tar");
    let chain = image(
        &archive,
        "test/base:1",
        &[vec![("bin/busybox", 0o755, &busybox)]],
    );
    let archive = archive.display().to_string();
    host.ctr(
        "default",
        &["images", "import", "--snapshotter", "shipway", &archive],
    )
    .await;

    let base = host.store.find_chain(&chain[0]).unwrap();
    let top = build_step(&host.store, "etc/built", b"yes");
    let mut snapshots = Snapshots(host.client().await.snapshots());
    let offers = [("sha256:top".to_owned(), top)];
    let _offer = host.store.offer("default", offers).unwrap();
    let landed = snapshots
        .land("default", "sha256:top", &chain[0])
        .await
        .unwrap_err();
    assert_eq!(landed.code(), Code::AlreadyExists);
    let lower = snapshots.lower("default", "sha256:top").await;
    assert_eq!(lower, [path(&host.store, top), path(&host.store, base[0])]);
    assert!(lower.iter().all(|dir| Path::new(dir).is_dir()));
}

#[tokio::test(flavor = "multi_thread")]
async fn repair_removes_what_a_lost_containerd_left_behind() {
    for version in versions() {
        repair(&Host::start(version).await).await;
    }
}

async fn repair(host: &Host) {
    let mut snapshots = Snapshots(host.client().await.snapshots());
    snapshots.land("default", "sha256:kept", "").await.unwrap();
    // As if an earlier containerd, whose database is gone, had made these.
    let labels = shipway_snapshotter::Labels::new;
    host.store.prepare("default/99/old", "", labels()).unwrap();
    host.store
        .commit_entry("default/100/old", "default/99/old", labels())
        .unwrap();
    host.store
        .prepare("default/101/older", "default/100/old", labels())
        .unwrap();
    let known = [shipway_snapshotter::KnownSnapshot {
        namespace: "default".into(),
        name: "shipway-landing-sha256:kept".into(),
        parent: String::new(),
    }];
    let plan = host
        .store
        .plan_repair(&known, std::time::Duration::ZERO)
        .unwrap();
    assert_eq!(plan.remove, ["default/101/older", "default/100/old"]);
    assert_eq!(host.store.apply_repair(&plan).unwrap(), plan.remove);
    assert!(
        snapshots
            .has("default", "shipway-landing-sha256:kept")
            .await
    );
}
