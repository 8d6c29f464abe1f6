//! A history over a containerd in memory.

use shipway_backend::fake::FakeHost;

use super::*;

fn record(id: &str) -> Record {
    Record {
        completed: Some(Timestamp::UNIX_EPOCH),
        ..Record::begun(id, "n", Timestamp::UNIX_EPOCH)
    }
}

fn history(host: &FakeHost, dir: &Path) -> Arc<History> {
    let retention = Retention {
        max_age: None,
        max_entries: Some(1),
    };
    let host: Arc<dyn Host> = Arc::new(host.clone());
    History::open(&dir.join("history.db"), host, retention).unwrap()
}

fn query(id: &str) -> Query {
    Query {
        namespace: "n".into(),
        id: id.into(),
        ..Query::default()
    }
}

async fn recorded(history: &Arc<History>, id: &str) -> Record {
    let mut record = record(id);
    history.begin(record.clone(), None);
    history.ending("n", id);
    let lease = history.lease(&record).await.unwrap();
    let logs = history.write(&record, &lease, "l", Bytes::from(id.to_owned()));
    record.logs = Some(logs.await.unwrap());
    let completed = history.complete(record.clone(), None, Vec::new());
    completed.await.unwrap();
    record
}

#[tokio::test]
async fn a_record_is_complete_traced_and_deleted_with_its_blobs() {
    let (host, dir) = (FakeHost::new(), tempfile::tempdir().unwrap());
    let history = history(&host, dir.path());
    recorded(&history, "a").await;
    let (found, mut later) = history.listen(query("a")).await.unwrap();
    assert_eq!(found[0].kind, EventKind::Complete);
    history.change("n", "a", Change::Finalize).await.unwrap();
    let traced = later.next().await.unwrap().record;
    assert_eq!((traced.generation, traced.trace.is_some()), (1, true));
    assert_eq!(host.blobs("n_history").len(), 2);
    history.change("n", "a", Change::Delete).await.unwrap();
    assert_eq!(later.next().await.unwrap().kind, EventKind::Deleted);
    assert_eq!(host.blobs("n_history").len(), 0);
    assert_eq!(host.leases("n_history"), [""; 0]);
    assert!(history.change("n", "a", Change::Pin(true)).await.is_err());
}

#[tokio::test]
async fn a_query_waits_for_a_record_that_is_being_written() {
    let (host, dir) = (FakeHost::new(), tempfile::tempdir().unwrap());
    let history = history(&host, dir.path());
    history.begin(record("a"), None);
    history.ending("n", "a");
    let asked = history.listen(query("a"));
    let written = recorded(&history, "a");
    let (asked, _) = tokio::join!(asked, written);
    assert_eq!(asked.unwrap().0.len(), 1);
    let other = history.listen(query("b")).await.unwrap();
    assert!(other.0.is_empty());
}

#[tokio::test]
async fn collecting_removes_the_surplus_and_what_lost_its_other_half() {
    let (host, dir) = (FakeHost::new(), tempfile::tempdir().unwrap());
    let history = history(&host, dir.path());
    recorded(&history, "a").await;
    recorded(&history, "b").await;
    let lease = history.lease(&record("orphan")).await.unwrap();
    let orphan = Bytes::from_static(b"orphan");
    history
        .write(&record("orphan"), &lease, "x", orphan)
        .await
        .unwrap();
    history.collect(&["n".to_owned()]).await.unwrap();
    let all = history.listen(query("")).await.unwrap().0;
    assert_eq!(all.len(), 1);
    history
        .change("n", &all[0].record.id, Change::Finalize)
        .await
        .unwrap();
    let kept = all[0].record.logs.as_ref().unwrap().digest;
    assert_eq!(host.blobs("n_history").len(), 2);
    let blobs = history.blobs_of("n").blobs;
    blobs.delete(&kept).await.unwrap();
    history.collect(&["n".to_owned()]).await.unwrap();
    assert!(history.listen(query("")).await.unwrap().0.is_empty());
}
