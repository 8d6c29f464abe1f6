//! The local and tar exporters: a result's files at the client, one directory per platform where there are several.

use std::collections::BTreeMap;

use shipway_backend::session::SendTree;
use shipway_layers::{Building, ChunkStream};
use shipway_model::Failure;
use shipway_model::op::FileCopy;
use shipway_tree::archive::write_tree;
use shipway_tree::tarball::Writer;
use shipway_tree::{Composer, Origin, Stack, Time};

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
    let mut trees = Vec::new();
    let mut held = Vec::new();
    for result in &what.results {
        let flat = flatten(result, env).await?;
        trees.push(SendTree {
            prefix: prefix(result, split),
            root: flat.fs().to_owned(),
        });
        held.push(flat);
    }
    env.report().part("copying files", "", 0, 0, false);
    let report = std::sync::Arc::clone(&env.need.report);
    let progress = std::sync::Arc::new(move |bytes: u64| {
        report.part("copying files", "", bytes, 0, false);
    });
    env.client()?
        .files()
        .send_trees(index, trees, split, progress)
        .await?;
    env.report().part("copying files", "", 0, 0, true);
    Ok(BTreeMap::new())
}

/// A result as one directory, made of links; gone when dropped.
async fn flatten(result: &PlatformResult, env: &ExportEnv) -> Result<Building, Failure> {
    let paths = result.snapshot.materialise(&env.layers, &env.need).await?;
    let building = env.layers.begin()?;
    let flat = tokio::task::spawn_blocking(move || {
        let tree = Stack::open(paths)?;
        let mut to = Composer::open(building.fs(), &Stack::default())?;
        if tree.root_entry()?.is_some() {
            to.copy(
                &Origin {
                    tree,
                    linkable: true,
                },
                &everything(),
                None,
            )?;
        }
        Ok::<_, shipway_tree::Error>(building)
    });
    let flat = flat.await.map_err(|e| Failure::from_error(&e))?;
    flat.map_err(|e| Failure::from_error(&e).context("copying files for the client"))
}

/// A copy of a whole tree.
fn everything() -> FileCopy {
    FileCopy {
        src: "/".into(),
        dest: "/".into(),
        owner: None,
        mode: -1,
        mode_str: String::new(),
        follow_symlink: false,
        dir_copy_contents: true,
        attempt_unpack: false,
        create_dest_path: true,
        allow_wildcard: false,
        allow_empty_wildcard: false,
        timestamp: -1,
        include_patterns: Vec::new(),
        exclude_patterns: Vec::new(),
        always_replace: true,
        required_paths: Vec::new(),
    }
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
    let mut trees = Vec::new();
    for result in &what.results {
        let paths = result.snapshot.materialise(&env.layers, &env.need).await?;
        trees.push((prefix(result, split), paths));
    }
    if trees.iter().any(|(prefix, _)| !prefix.is_empty()) {
        return Err(Failure::new(
            "tar export of several platforms is not supported: use type=local",
        ));
    }
    env.report().part("sending tarball", "", 0, 0, false);
    let (sink, data) = ChunkStream::channel();
    let written = tokio::task::spawn_blocking(move || {
        let mut writer = Writer::new(sink);
        for (_, paths) in trees {
            write_tree(
                &Stack::open(paths)?,
                shipway_tree::archive::Options { latest },
                &mut writer,
            )?;
        }
        let sink = writer.finish().map_err(shipway_tree::Error::Sink)?;
        sink.finish().map_err(shipway_tree::Error::Sink)
    });
    let files = env.client()?.files();
    let send = files.send_stream(index, BTreeMap::new(), data);
    let (written, sent) = tokio::join!(written, send);
    sent?;
    let written = written.map_err(|e| Failure::from_error(&e))?;
    written.map_err(|e| Failure::from_error(&e).context("writing the tarball"))?;
    env.report().part("sending tarball", "", 0, 0, true);
    Ok(BTreeMap::new())
}
