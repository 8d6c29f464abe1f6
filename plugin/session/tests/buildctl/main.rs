//! Sessions of the real `buildctl`. The daemon here knows no build: its Solve hands the session to the test and then fails.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod daemon;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use daemon::with_client;
use futures::StreamExt as _;
use shipway_backend::session::{Credentials, FileStat, SendTree, SyncRequest, SyncSink};
use shipway_backend::suite::session::{self as suite, MemorySink, Received, silent};
use shipway_backend::suite::{broken_stream, stream};
use shipway_backend::{BackendError, ErrorKind, Session};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;

async fn receive(session: &dyn Session, request: SyncRequest) -> Result<Received, BackendError> {
    let sink = MemorySink::new(|_| true);
    let boxed = Box::new(sink.clone());
    drop(session.files().receive(request, boxed, silent()).await?);
    Ok(sink.received())
}

fn named(name: &str) -> SyncRequest {
    SyncRequest {
        name: name.into(),
        ..Default::default()
    }
}

fn local(dir: &Path) -> String {
    format!("--local=context={}", dir.display())
}

#[tokio::test(flavor = "multi_thread")]
async fn it_passes_the_suite() {
    let dir = tempfile::tempdir().unwrap();
    let context = dir.path().join("context");
    for (path, text) in suite::FILES {
        let path = context.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    symlink(suite::LINK.1, context.join(suite::LINK.0)).unwrap();
    fs::write(dir.path().join("secret"), suite::SECRET.1).unwrap();
    // "user:secret"
    let config = r#"{"auths":{"h.example":{"auth":"dXNlcjpzZWNyZXQ="}}}"#;
    fs::write(dir.path().join("config.json"), config).unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let args = [
        local(&context),
        format!("--secret=id={},src={}", suite::SECRET.0, at("secret")),
        format!("--output=type=oci,tar=false,dest={}", at("out")),
    ];
    let args = args.each_ref().map(String::as_str);
    let config = dir.path().to_str().unwrap();
    with_client(&args, &[("DOCKER_CONFIG", config)], async |session| {
        suite::all(&*session).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_arrives_whole() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("d")).unwrap();
    for i in 0..500 {
        fs::write(at(&format!("d/{i}")), vec![b'x'; i * 7]).unwrap();
    }
    fs::write(at("big"), vec![7; 5_000_000]).unwrap();
    fs::hard_link(at("big"), at("big2")).unwrap();
    fs::write(at("é"), "ü").unwrap();
    symlink("d/1", at("link")).unwrap();
    with_client(&[&local(dir.path())], &[], async |session| {
        let files = receive(&*session, named("context")).await.unwrap();
        assert_eq!(files.len(), 505);
        assert_eq!(files["d"].0.mode & 1 << 31, 1 << 31);
        assert_eq!(files["d/499"].1, vec![b'x'; 499 * 7]);
        assert_eq!(files["big"].1, vec![7; 5_000_000]);
        assert_eq!(files["big2"].0.link_name, "big");
        assert_eq!(files["é"].1, "ü".as_bytes());
        assert_eq!(files["link"].0.link_name, "d/1");
        let some = SyncRequest {
            include: vec!["é".into(), "d/1*".into()],
            exclude: vec!["d/1?".into()],
            ..named("context")
        };
        let files = receive(&*session, some).await.unwrap();
        assert_eq!(files.len(), 1 + 1 + 1 + 100);
        let followed = SyncRequest {
            follow: vec!["link".into(), "missing".into()],
            ..named("context")
        };
        let files = receive(&*session, followed).await.unwrap();
        assert_eq!(files.keys().collect::<Vec<_>>(), ["d", "d/1", "link"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_listed_beside_the_rest_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let write = |path: &str| {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, path.display().to_string()).unwrap();
    };
    for number in 0..400 {
        write(&format!("src/{}/{number}", number % 10));
    }
    for path in ["src/1/1x/deep", "src/0.x", "src/z", "src/é ü/a", "other/11"] {
        write(path);
    }
    symlink("../other", dir.path().join("src/link")).unwrap();
    let groups: [&[&str]; 4] = [
        &[],
        &["src/0", "src/3", "src/gone"],
        &["src/1", "src/é ü"],
        &["src/9", "src/2"],
    ];
    let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
    let cases: [(&[&str], &[&str]); 6] = [
        (&[], &[]),
        (&["**/*1*"], &[]),
        (&["src/1/*1", "!src/1/111", "other"], &[]),
        (&["src/1", "!src/1/1x", "src/0/**", "!src/0/100"], &[]),
        (&["*/3"], &["src"]),
        (&[], &["src", "src/lin*"]),
    ];
    with_client(&[&local(dir.path())], &[], async |session| {
        for (exclude, follow) in cases {
            let one = SyncRequest {
                exclude: owned(exclude),
                follow: owned(follow),
                ..named("context")
            };
            let several = SyncRequest {
                beside: groups.into_iter().map(owned).collect(),
                ..one.clone()
            };
            let expected = receive(&*session, one).await.unwrap();
            let got = receive(&*session, several).await.unwrap();
            assert!(got.len() > 200, "{exclude:?} {follow:?}");
            assert_eq!(got, expected, "{exclude:?} {follow:?}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_directories_travel_at_once() {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..50 {
        fs::write(dir.path().join(i.to_string()), vec![1; 200_000]).unwrap();
    }
    with_client(&[&local(dir.path())], &[], async |session| {
        let all = (0..4).map(|_| receive(&*session, named("context")));
        for files in futures::future::try_join_all(all).await.unwrap() {
            assert_eq!(
                files.values().map(|file| file.1.len()).sum::<usize>(),
                10_000_000
            );
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_is_not_offered_is_refused_in_the_clients_words() {
    let dir = tempfile::tempdir().unwrap();
    with_client(&[&local(dir.path())], &[], async |session| {
        let error = receive(&*session, named("x")).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::NotFound);
        assert_eq!(
            error.cause.unwrap().to_string(),
            "no access allowed to dir \"x\""
        );
    })
    .await;
    with_client(&[], &[], async |session| {
        let error = receive(&*session, named("x")).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unsupported);
        let files = session.files();
        let error = files.send_stream(0, BTreeMap::new(), stream([]));
        assert_eq!(error.await.unwrap_err().kind, ErrorKind::Unsupported);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_fails_ends_the_transfer_and_nothing_else() {
    struct Full;
    impl SyncSink for Full {
        fn entry(&mut self, _: u32, _: FileStat) -> Result<bool, BackendError> {
            Err(BackendError::new(ErrorKind::Other, "disk full"))
        }
        fn data(&mut self, _: u32, _: &[u8]) -> Result<(), BackendError> {
            unreachable!()
        }
        fn end(&mut self) -> Result<(), BackendError> {
            unreachable!()
        }
    }
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a"), "1").unwrap();
    with_client(&[&local(dir.path())], &[], async |session| {
        let files = session.files();
        let received = files.receive(named("context"), Box::new(Full), silent());
        let error = received.await.err().unwrap();
        assert_eq!(error.to_string(), "disk full");
        assert_eq!(receive(&*session, named("context")).await.unwrap().len(), 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_in_the_clients_file_when_it_was_sent() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("out.tar");
    let output = format!("--output=type=tar,dest={}", to.display());
    with_client(&[&output], &[], async |session| {
        let data = vec![Bytes::from(vec![3; 4 << 20]); 5];
        let metadata = [("image.name".to_owned(), "x".to_owned())].into();
        let files = session.files();
        files.send_stream(0, metadata, stream(data)).await.unwrap();
        assert_eq!(fs::read(&to).unwrap(), vec![3; 20 << 20]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_is_not_taken_for_complete() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("out.tar");
    let output = format!("--output=type=tar,dest={}", to.display());
    with_client(&[&output], &[], async |session| {
        let data = broken_stream(["x".into()]);
        let sent = session.files().send_stream(0, BTreeMap::new(), data).await;
        assert_eq!(sent.unwrap_err().to_string(), "reading");
        // The session goes on.
        assert!(session.auth().credentials("h").await.is_ok());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_arrive_as_they_are() {
    let from = tempfile::tempdir().unwrap();
    let at = |name: &str| from.path().join(name);
    fs::create_dir_all(at("a/b")).unwrap();
    fs::write(at("a/b/c"), vec![9; 3_000_000]).unwrap();
    fs::write(at("a.x"), "").unwrap();
    fs::hard_link(at("a/b/c"), at("z")).unwrap();
    symlink("a/b", at("link")).unwrap();
    let to = tempfile::tempdir().unwrap();
    let output = format!("--output=type=local,dest={}", to.path().display());
    with_client(&[&output], &[], async |session| {
        let tree = |prefix: &str| SendTree {
            prefix: prefix.into(),
            root: from.path().to_owned(),
        };
        let files = session.files();
        let trees = vec![tree("linux_amd64/"), tree("linux_arm64/")];
        files.send_trees(0, trees, true, silent()).await.unwrap();
        for platform in ["linux_amd64", "linux_arm64"] {
            let got = to.path().join(platform);
            assert_eq!(fs::read(got.join("z")).unwrap(), vec![9; 3_000_000]);
            assert_eq!(fs::read_link(got.join("link")).unwrap(), Path::new("a/b"));
            assert_eq!(fs::read(got.join("a.x")).unwrap(), b"");
        }
        files
            .send_trees(0, vec![tree("")], false, silent())
            .await
            .unwrap();
        assert!(to.path().join("a/b/c").is_file());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_handed_over_and_absent_ones_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("s");
    fs::write(&file, "hush").unwrap();
    let flag = format!("--secret=id=mysecret,src={}", file.display());
    for (flags, expected) in [(vec![flag.as_str()], Some("hush")), (vec![], None)] {
        with_client(&flags, &[], async |session| {
            let secrets = session.secrets();
            let got = secrets.secret("mysecret").await.ok();
            assert_eq!(got.as_deref(), expected.map(str::as_bytes));
            let error = secrets.secret("other").await.unwrap_err();
            assert!(error.is_not_found());
            let whole = format!("{error}: {}", error.cause.as_ref().unwrap());
            assert_eq!(whole, "secret other: not found");
        })
        .await;
    }
}

/// An agent without keys.
async fn serve_agent(agent: tokio::net::UnixListener) {
    loop {
        let (mut stream, _) = agent.accept().await.unwrap();
        let mut request = [0; 5];
        while stream.read_exact(&mut request).await.is_ok() {
            assert_eq!(request, [0, 0, 0, 1, 11]);
            let answer = stream.write_all(&[0, 0, 0, 5, 12, 0, 0, 0, 0]);
            answer.await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ssh_agent_is_reached_through_the_client() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent");
    let agent = tokio::net::UnixListener::bind(&socket).unwrap();
    let mut served = JoinSet::new();
    served.spawn(serve_agent(agent));
    let flag = format!("--ssh=default={}", socket.display());
    with_client(&[&flag], &[], async |session| {
        let secrets = session.secrets();
        secrets.check_agent("").await.unwrap();
        assert!(secrets.check_agent("other").await.is_err());
        let mut agent = secrets.connect_agent("").await.unwrap();
        for _ in 0..2 {
            agent.write_all(&[0, 0, 0, 1, 11]).await.unwrap();
            let mut answer = [0; 9];
            agent.read_exact(&mut answer).await.unwrap();
            assert_eq!(answer, [0, 0, 0, 5, 12, 0, 0, 0, 0]);
        }
        agent.shutdown().await.unwrap();
        assert_eq!(agent.read(&mut [0; 9]).await.unwrap(), 0);
    })
    .await;
    served.shutdown().await;
    with_client(&[], &[], async |session| {
        let error = session.secrets().check_agent("").await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unsupported);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_and_their_identity_come_from_the_client() {
    let dir = tempfile::tempdir().unwrap();
    // "user:secret"
    let config = r#"{"auths":{"h.example":{"auth":"dXNlcjpzZWNyZXQ="}}}"#;
    fs::write(dir.path().join("config.json"), config).unwrap();
    let env = [("DOCKER_CONFIG", dir.path().to_str().unwrap())];
    with_client(&[], &env, async |session| {
        let auth = session.auth();
        let known = auth.credentials("h.example").await.unwrap();
        assert_eq!(
            (known.username.as_str(), known.secret.as_str()),
            ("user", "secret")
        );
        let anonymous = auth.credentials("other.example").await.unwrap();
        assert_eq!(anonymous, Credentials::default());
        let one = auth.authority("h.example").await.unwrap();
        assert_eq!(one.len(), 32);
        assert_eq!(auth.authority("h.example").await.unwrap(), one);
        assert_ne!(auth.authority("other.example").await.unwrap(), one);
    })
    .await;
    let env = [("BUILDKIT_NO_CLIENT_TOKEN", "1")];
    with_client(&[], &env, async |session| {
        let error = session.auth().authority("h.example").await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unsupported);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_under_way_fails_at_once_when_the_client_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("out");
    let output = format!("--output=type=tar,dest={}", to.display());
    let (kill, killed) = tokio::sync::oneshot::channel();
    daemon::with_killed_client(&[&output], killed, async move |session| {
        let endless = futures::stream::pending().boxed();
        let files = session.files();
        let sending = files.send_stream(0, BTreeMap::new(), endless);
        let mut sending = std::pin::pin!(sending);
        let early = tokio::time::timeout(Duration::from_millis(100), &mut sending).await;
        assert!(early.is_err());
        kill.send(()).unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(2), sending).await;
        assert_eq!(ended.unwrap().unwrap_err().kind, ErrorKind::Unavailable);
        session.closed().await;
        let error = session.auth().credentials("h").await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unavailable);
    })
    .await;
}
