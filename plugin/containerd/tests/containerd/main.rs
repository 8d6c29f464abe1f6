//! The adapter against the containerd in PATH. Needs root; steps also need our shim in PATH, runc's with an older containerd.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod stand;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use shipway_backend::suite::executor::Program;
use shipway_backend::{BuildTask, Host as _, StepIo, suite};
use shipway_containerd::ExecutorKind;
use shipway_model::Digest;
use stand::Stand;

#[tokio::test(flavor = "multi_thread")]
async fn it_passes_the_suites() {
    let mut stand = Stand::start();
    let host = stand.connect("it").await;
    let (one, other) = (host.namespace("one"), host.namespace("other"));
    suite::blobs::all(&one, &other).await;
    suite::images::all(&one).await;
    suite::snapshots::all(&one, "native").await;
    assert!(host.uuid().await.unwrap().len() >= 32);
    let namespaces = host.namespaces().await.unwrap();
    assert!(namespaces.contains(&"one".to_owned()), "{namespaces:?}");
    host.drain().await;
    assert_eq!(stand.ctr(&["-n", "one", "leases", "ls", "-q"]).await, "");
    assert_eq!(
        stand
            .ctr(&["-n", "one", "content", "active"])
            .await
            .lines()
            .count(),
        1
    );
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_blob_is_no_upload_where_the_store_is_in_reach() {
    let mut stand = Stand::start();
    let host = stand.connect("it").await;
    let blobs = host.namespace("one").blobs;
    let lease = host.namespace("one").leases;
    let lease = lease.create(Duration::from_mins(1)).await.unwrap();
    // The first blob makes the store's directory.
    for data in [vec![1; 10], vec![2; 3 << 20]] {
        let slot = blobs.write(&lease, "x", None, BTreeMap::new()).await;
        let shipway_backend::BlobSlot::Write(mut writer) = slot.unwrap() else {
            panic!("a blob is there that nobody wrote");
        };
        let (digest, size) = (Digest::of(&data), data.len() as u64);
        writer.append(data.into()).await.unwrap();
        let active = stand.ctr(&["-n", "one", "content", "active"]).await;
        assert_eq!(active.lines().count(), 1, "{active}");
        writer.commit(digest, size).await.unwrap();
        assert_eq!(blobs.info(&digest).await.unwrap().unwrap().size, size);
    }
    drop(lease);
    host.drain().await;
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_are_uploaded_where_namespaces_share_none() {
    let mut stand = Stand::configured(
        "[plugins.\"io.containerd.metadata.v1.bolt\"]\ncontent_sharing_policy = \"isolated\"\n",
    );
    let host = stand.connect("it").await;
    suite::blobs::all(&host.namespace("one"), &host.namespace("other")).await;
    host.drain().await;
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_pass_the_suite() {
    let mut stand = Stand::start();
    let host = stand.connect("it").await;
    let namespace = host.namespace("builds");
    let root = || stand.root();
    suite::executor::all(&*namespace.executor, &root).await;
    host.drain().await;
    assert_eq!(
        stand.ctr(&["-n", "builds", "containers", "ls", "-q"]).await,
        ""
    );
    assert_eq!(stand.leftovers(), [""; 0]);
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_steps_are_fast() {
    let mut stand = Stand::start();
    let host = stand.connect("it").await;
    let namespace = host.namespace("builds");
    let task = BuildTask {
        id: "fast".into(),
        ..Default::default()
    };
    let began = Instant::now();
    let sandbox = namespace.executor.open(task).await.unwrap();
    let opened = began.elapsed();
    let began = Instant::now();
    for n in 0..50 {
        let step = Program::Speak.step(stand.root());
        let step = sandbox
            .start(&format!("s{n}"), step, StepIo::default())
            .await;
        assert_eq!(step.unwrap().wait().await.unwrap().code, 3);
    }
    let ran = began.elapsed();
    let began = Instant::now();
    sandbox.close().await.unwrap();
    let closed = began.elapsed();
    eprintln!("open {opened:?}, 50 steps {ran:?}, close {closed:?}");
    if host.executor_kind() == ExecutorKind::BuildTask {
        assert!(ran < Duration::from_secs(30), "{ran:?}");
    }
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_containerd_is_not_noticed() {
    let mut stand = Stand::start();
    let host = stand.connect("it").await;
    let namespace = host.namespace("builds");
    let task = BuildTask {
        id: "restart".into(),
        ..Default::default()
    };
    let sandbox = namespace.executor.open(task).await.unwrap();
    let step = Program::Sleep.step(stand.root());
    let step = sandbox
        .start("long", step, StepIo::default())
        .await
        .unwrap();
    stand.restart().await;
    assert_eq!(namespace.images.get("x").await.unwrap(), None);
    let digest = Digest::of(b"x");
    assert_eq!(namespace.blobs.info(&digest).await.unwrap(), None);
    let killed = async {
        step.kill().await.unwrap();
    };
    let (exit, ()) = tokio::join!(step.wait(), killed);
    assert_eq!(exit.unwrap().code, 137);
    let again = Program::Speak.step(stand.root());
    let again = sandbox
        .start("again", again, StepIo::default())
        .await
        .unwrap();
    assert_eq!(again.wait().await.unwrap().code, 3);
    sandbox.close().await.unwrap();
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_daemon_left_is_removed_and_nothing_else() {
    let mut stand = Stand::start();
    let task = |id: &str| BuildTask {
        id: id.into(),
        ..Default::default()
    };
    let dead = stand.connect("it").await.namespace("builds");
    let left = dead.executor.open(task("left")).await.unwrap();
    let step = Program::Sleep.step(stand.root());
    let step = left.start("s", step, StepIo::default()).await.unwrap();
    let lease = dead.leases.create(Duration::from_mins(10)).await.unwrap();
    let stranger = stand.connect("stranger").await.namespace("builds");
    let theirs = stranger.executor.open(task("theirs")).await.unwrap();
    let sleep = || Program::Sleep.step(stand.root());
    let _theirs = theirs.start("s", sleep(), StepIo::default()).await.unwrap();
    let their_lease = stranger
        .leases
        .create(Duration::from_mins(10))
        .await
        .unwrap();

    let host = stand.connect("it").await;
    let ours = host.namespace("builds");
    let mine = ours.executor.open(task("mine")).await.unwrap();
    let _mine = mine.start("s", sleep(), StepIo::default()).await.unwrap();
    let my_lease = ours.leases.create(Duration::from_mins(10)).await.unwrap();
    ours.executor.clean_up().await.unwrap();
    ours.leases.clean_up().await.unwrap();
    let containers = stand.ctr(&["-n", "builds", "containers", "ls", "-q"]).await;
    let expected = match host.executor_kind() {
        ExecutorKind::BuildTask => "mine\ntheirs\n",
        ExecutorKind::StepTask => "mine-s\ntheirs-s\n",
    };
    assert_eq!(containers, expected);
    let leases = stand.ctr(&["-n", "builds", "leases", "ls", "-q"]).await;
    assert!(!leases.contains(lease.id()), "{leases}");
    assert!(leases.contains(their_lease.id()) && leases.contains(my_lease.id()));

    let ended = tokio::time::timeout(Duration::from_secs(5), step.wait()).await;
    match ended.expect("a step of a removed build ends") {
        Ok(exit) => assert_eq!(exit.code, 137),
        Err(error) => assert!(format!("{error:?}").contains("removed"), "{error:?}"),
    }
    if host.executor_kind() == ExecutorKind::BuildTask {
        let late = Program::Speak.step(stand.root());
        let late = left.start("late", late, StepIo::default()).await;
        let cause = late.err().unwrap().cause.unwrap().to_string();
        assert_eq!(cause, "build container was removed");
    }
    for sandbox in [left, theirs, mine] {
        sandbox.close().await.unwrap();
    }
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_with_its_labels_survives_a_collection() {
    use shipway_backend::{BlobSlot, Image};
    use shipway_model::Descriptor;
    use shipway_model::descriptor::{OCI_CONFIG, OCI_MANIFEST};

    let mut stand = Stand::start();
    let host = stand.connect("it").await;
    let namespace = host.namespace("images");
    let lease = namespace
        .leases
        .create(Duration::from_mins(10))
        .await
        .unwrap();
    let put = async |media_type: &str, data: &[u8], labels: BTreeMap<String, String>| {
        let descriptor = Descriptor::of(media_type, data);
        let expected = Some((descriptor.digest, descriptor.size));
        let slot = namespace
            .blobs
            .write(&lease, "b", expected, labels)
            .await
            .unwrap();
        let BlobSlot::Write(mut writer) = slot else {
            panic!("it is new");
        };
        writer.append(data.to_vec().into()).await.unwrap();
        writer
            .commit(descriptor.digest, descriptor.size)
            .await
            .unwrap();
        descriptor
    };
    let config = put(OCI_CONFIG, b"{}", BTreeMap::new()).await;
    let lonely = put(OCI_CONFIG, b"lonely", BTreeMap::new()).await;
    let label = "containerd.io/gc.ref.content.config".to_owned();
    let labels = [(label, config.digest.to_string())].into();
    let target = put(OCI_MANIFEST, b"{\"schemaVersion\":2}", labels).await;
    let image = Image {
        name: "docker.io/library/x:1".into(),
        target: target.clone(),
        labels: BTreeMap::new(),
    };
    namespace.images.put(image).await.unwrap();
    lease.end().await.unwrap();
    // Ending a lease with `--sync` waits for a collection.
    stand
        .ctr(&["-n", "images", "leases", "create", "--id", "x"])
        .await;
    stand
        .ctr(&["-n", "images", "leases", "delete", "--sync", "x"])
        .await;
    for (descriptor, kept) in [(&config, true), (&target, true), (&lonely, false)] {
        let found = namespace.blobs.info(&descriptor.digest).await.unwrap();
        assert_eq!(found.is_some(), kept, "{descriptor:?}");
    }
    stand.end().await;
}
