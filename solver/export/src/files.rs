//! The local and tar exporters: a result's files at the client, one directory per platform where there are several.

use std::collections::BTreeMap;

use shipway_backend::session::SendTree;
use shipway_layers::{Building, ChunkStream};
use shipway_model::Failure;
use shipway_tree::archive::write_tree;
use shipway_tree::compose::NewDir;
use shipway_tree::tarball::Writer;
use shipway_tree::{Composer, Origin, Stack, Time, everything};

use crate::notes::{self, Note};
use crate::{ExportEnv, Exportable, Options, PlatformResult};

fn is_split(options: &Options, what: &Exportable) -> bool {
    options.platform_split.unwrap_or(what.multi_platform)
}

fn prefix(result: &PlatformResult, split: bool) -> String {
    if split {
        format!("{}/", result.key.replace('/', "_"))
    } else {
        String::new()
    }
}

pub(crate) async fn local(
    options: &Options,
    index: usize,
    what: &Exportable,
    env: &ExportEnv,
) -> Result<BTreeMap<String, String>, Failure> {
    let split = is_split(options, what);
    let notes = said(options, what, split, env).await?;
    let flat = flatten(what, split, notes, env).await?;
    let trees = vec![SendTree {
        prefix: String::new(),
        root: flat.fs().to_owned(),
    }];
    env.report().part("copying files", "", 0, 0, false);
    let report = std::sync::Arc::clone(&env.need.report);
    let progress = std::sync::Arc::new(move |bytes: u64| {
        report.part("copying files", "", bytes, 0, false);
    });
    let files = env.client()?.files();
    files.send_trees(index, trees, split, progress).await?;
    env.report().part("copying files", "", 0, 0, true);
    Ok(BTreeMap::new())
}

/// Files that say something about the results, in the results' places.
async fn said(
    options: &Options,
    what: &Exportable,
    split: bool,
    env: &ExportEnv,
) -> Result<Vec<Note>, Failure> {
    notes::notes(options, what, split, |result| prefix(result, split), env).await
}

/// All results, and what is said of them, in one directory, made of links; gone when dropped.
async fn flatten(
    what: &Exportable,
    split: bool,
    notes: Vec<Note>,
    env: &ExportEnv,
) -> Result<Building, Failure> {
    let mut trees = Vec::new();
    for result in &what.results {
        let paths = result.snapshot.materialise(&env.layers, &env.need).await?;
        trees.push((format!("/{}", prefix(result, split)), paths));
    }
    let building = env.layers.begin()?;
    let flat = tokio::task::spawn_blocking(move || {
        let mut to = Composer::open(building.fs(), &Stack::default())?;
        for (dest, paths) in trees {
            let tree = Stack::open(paths)?;
            to.mkdir(&dest, true, &NewDir::default())?;
            if tree.root_entry()?.is_some() {
                let origin = Origin {
                    tree,
                    linkable: true,
                };
                to.copy(&origin, &everything("/", &dest), None)?;
            }
        }
        for note in &notes {
            let root = building.fs();
            let written = note.write(root);
            written.map_err(|e| shipway_tree::Error::io("write", root, e))?;
        }
        Ok::<_, shipway_tree::Error>(building)
    });
    let flat = flat.await.map_err(|e| Failure::from_error(&e))?;
    flat.map_err(|e| Failure::from_error(&e).context("copying files for the client"))
}

pub(crate) async fn tar(
    options: &Options,
    index: usize,
    what: &Exportable,
    env: &ExportEnv,
) -> Result<BTreeMap<String, String>, Failure> {
    let split = is_split(options, what);
    let latest = options
        .epoch
        .or(what.epoch)
        .map(|sec| Time { sec, nsec: 0 });
    let mut held = None;
    let notes = said(options, what, split, env).await?;
    let paths = match &what.results[..] {
        [only] if !split && notes.is_empty() => {
            only.snapshot.materialise(&env.layers, &env.need).await?
        }
        _ => {
            let flat = flatten(what, split, notes, env).await?;
            let paths = vec![flat.fs().to_owned()];
            held = Some(flat);
            paths
        }
    };
    env.report().part("sending tarball", "", 0, 0, false);
    let (sink, data) = ChunkStream::channel();
    let written = tokio::task::spawn_blocking(move || {
        let mut writer = Writer::new(sink);
        let how = shipway_tree::archive::Options { latest };
        write_tree(&Stack::open(paths)?, how, &mut writer)?;
        let sink = writer.finish().map_err(shipway_tree::Error::Sink)?;
        sink.finish().map_err(shipway_tree::Error::Sink)
    });
    let files = env.client()?.files();
    let send = files.send_stream(index, BTreeMap::new(), data);
    let (written, sent) = tokio::join!(written, send);
    drop(held);
    sent?;
    let written = written.map_err(|e| Failure::from_error(&e))?;
    written.map_err(|e| Failure::from_error(&e).context("writing the tarball"))?;
    env.report().part("sending tarball", "", 0, 0, true);
    Ok(BTreeMap::new())
}
