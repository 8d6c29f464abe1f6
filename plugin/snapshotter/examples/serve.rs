//! Serves a layer store to containerd and to nobody else: for containerd's own suite and for trying the snapshotter
//! alone. `serve --root DIR --socket PATH [--offer NAMESPACE:CHAINID=DIR]…`; an offer copies nothing: the directory is
//! adopted as a foreign layer and offered in that namespace. Ends on SIGTERM or SIGINT.

use std::{env, error::Error, path::PathBuf};

use shipway_snapshotter::{LayerStore, Offer, serve};
use tokio::{
    net::UnixListener,
    signal::unix::{SignalKind, signal},
};

#[derive(Default)]
struct Arguments {
    root: PathBuf,
    socket: PathBuf,
    offers: Vec<String>,
}

fn arguments() -> Result<Arguments, Box<dyn Error>> {
    let mut parsed = Arguments::default();
    let mut given = env::args().skip(1);
    while let Some(flag) = given.next() {
        let value = given
            .next()
            .ok_or_else(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--root" => parsed.root = value.into(),
            "--socket" => parsed.socket = value.into(),
            "--offer" => parsed.offers.push(value),
            _ => return Err(format!("unknown flag {flag}").into()),
        }
    }
    if parsed.root.as_os_str().is_empty() || parsed.socket.as_os_str().is_empty() {
        return Err("--root and --socket are needed".into());
    }
    Ok(parsed)
}

fn offer(store: &LayerStore, text: &str) -> Result<Offer, Box<dyn Error>> {
    let (target, dir) = text
        .rsplit_once('=')
        .ok_or("an offer is NAMESPACE:CHAINID=DIR")?;
    let (namespace, chain_id) = target
        .split_once(':')
        .ok_or("an offer is NAMESPACE:CHAINID=DIR")?;
    let layer = store.adopt_foreign(dir.as_ref(), "offer")?;
    Ok(store.offer(namespace, [(chain_id.to_owned(), layer)])?)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments = arguments()?;
    let store = LayerStore::open(&arguments.root)?;
    let offers: Vec<Offer> = arguments
        .offers
        .iter()
        .map(|text| offer(&store, text))
        .collect::<Result<_, _>>()?;
    if arguments.socket.exists() {
        std::fs::remove_file(&arguments.socket)?;
    }
    let listener = UnixListener::bind(&arguments.socket)?;
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let shutdown = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    serve(store, listener, shutdown).await?;
    drop(offers);
    Ok(())
}
