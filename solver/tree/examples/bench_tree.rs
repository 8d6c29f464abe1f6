//! Times what this crate does on many small files and on one big layer. Arguments: a directory to work in (on a
//! disk, emptied afterwards) and a tree whose files make the big layer. It measures and judges nothing.
#![expect(clippy::print_stdout, reason = "its output is the point")]

use std::error::Error;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use shipway_model::op::FileCopy;
use shipway_tree::archive::{self, Options};
use shipway_tree::hash::{Content, Indexed, LayerIndex, Selector};
use shipway_tree::usage::Usage;
use shipway_tree::{
    Composer, Compression, Expected, Layer, Limits, Origin, Owner, Stack, compress, extract_layer,
    fill::fill,
};

const DIRS: usize = 500;
const FILES: usize = 100;
const BIG: u64 = 1_130_000_000;

type Outcome<T> = Result<T, Box<dyn Error>>;

fn timed<T, E>(what: &str, run: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    let (start, before) = (Instant::now(), processor_time());
    let done = run()?;
    let used = processor_time() - before;
    println!(
        "{what:<36} {:8.3} s, processor {used:6.2} s",
        start.elapsed().as_secs_f64()
    );
    io::stdout().flush().ok();
    Ok(done)
}

/// Seconds that this process has computed, kernel included: what counts on a busy machine.
fn processor_time() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace();
    let ticks: u32 = fields
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u32>().ok())
        .sum();
    f64::from(ticks) / 100.0
}

fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let work = PathBuf::from(arguments.next().unwrap_or_else(|| ".".into())).join("bench-tree");
    let source = PathBuf::from(arguments.next().unwrap_or_else(|| "/usr".into()));
    fs::create_dir_all(&work)?;
    let done = small_files(&work).and_then(|()| big_layer(&work, &source));
    fs::remove_dir_all(&work)?;
    done
}

fn write_files(tree: &Path, data: &[u8]) -> io::Result<()> {
    for dir in 0..DIRS {
        let place = tree.join(format!("d{dir:04}"));
        fs::create_dir_all(&place)?;
        for file in 0..FILES {
            let size = 100 + (dir * FILES + file) * 7919 % 4000;
            fs::write(place.join(format!("f{file:04}")), &data[..size])?;
        }
    }
    Ok(())
}

fn copy_all(dest: &str) -> FileCopy {
    FileCopy {
        src: "/".into(),
        dest: dest.into(),
        owner: None,
        mode: -1,
        mode_str: String::new(),
        follow_symlink: true,
        dir_copy_contents: true,
        attempt_unpack: false,
        create_dest_path: true,
        allow_wildcard: true,
        allow_empty_wildcard: true,
        timestamp: -1,
        include_patterns: Vec::new(),
        exclude_patterns: Vec::new(),
        always_replace: false,
        required_paths: Vec::new(),
    }
}

fn small_files(work: &Path) -> Outcome<()> {
    println!("{} small files in {DIRS} directories", DIRS * FILES);
    let data: Vec<u8> = (0..5000_u32)
        .map(|n| (n * 31 % 251).to_le_bytes()[0])
        .collect();
    let tree = work.join("m");
    write_files(&tree, &data)?;
    let layer = Arc::new(Layer::open(&tree)?);
    let content = |index: Arc<LayerIndex>| {
        Content::new(vec![Indexed {
            layer: Arc::clone(&layer),
            index,
        }])
    };
    let all = [Selector {
        path: "/".into(),
        ..Selector::default()
    }];
    let indexed = timed("hash: scan", || Indexed::scan(&layer))?;
    timed("hash: cold", || content(indexed.index.clone()).key(&all))?;
    timed("hash: again", || content(indexed.index.clone()).key(&all))?;
    let bytes = indexed.index.to_bytes();
    println!("    index of {} bytes", bytes.len());
    let index = timed("hash: index read back", || LayerIndex::from_bytes(&bytes))?;
    timed("hash: with it", || content(Arc::new(index)).key(&all))?;
    let origin = Origin {
        tree: Stack::of(vec![Arc::clone(&layer)]),
        linkable: true,
    };
    for (what, owner, dest) in [
        ("copy: by hard links", None, "linked"),
        (
            "copy: with another owner",
            Some(Owner { uid: 1, gid: 1 }),
            "copied",
        ),
    ] {
        let upper = work.join(dest);
        fs::create_dir_all(&upper)?;
        let mut composer = Composer::open(&upper, &Stack::default())?;
        timed(what, || composer.copy(&origin, &copy_all("/x"), owner))?;
    }
    let upper = Layer::open(work.join("linked"))?;
    timed("usage", || Usage::of(&upper))?;
    pipeline(&upper, Compression::None, &work.join("blob"))?;
    pipeline(&upper, Compression::GZIP, &work.join("blob"))?;
    extract(work)?;
    fs::create_dir_all(work.join("filled"))?;
    let filled = timed("fill", || fill(&upper, &work.join("filled")))?;
    println!("    {filled:?}");
    Ok(())
}

fn pipeline(upper: &Layer, how: Compression, blob: &Path) -> Outcome<()> {
    let mut file = fs::File::create(blob)?;
    let done = timed(&format!("layer to {how:?}"), || {
        compress(
            |bytes| file.write_all(&bytes),
            how,
            2,
            |feed| archive::write_layer(upper, &Stack::default(), Options::default(), feed),
        )
    })?;
    println!("    {} -> {} bytes", done.diff_size, done.size);
    Ok(())
}

fn extract(work: &Path) -> Outcome<()> {
    let upper = work.join("extracted");
    fs::create_dir_all(&upper)?;
    let mut composer = Composer::open(&upper, &Stack::default())?;
    let blob = fs::File::open(work.join("blob"))?;
    timed("extract that", || {
        extract_layer(blob, &mut composer, Expected::default(), Limits::default())
    })?;
    // Not removed yet: a filesystem is slow to reuse inodes that were freed a moment ago.
    let kept = (0..9)
        .map(|n| work.join(format!("extracted-{n}")))
        .find(|path| !path.exists());
    fs::rename(upper, kept.ok_or("no name is free")?)?;
    Ok(())
}

fn big_layer(work: &Path, source: &Path) -> Outcome<()> {
    let upper = work.join("big");
    fs::create_dir_all(&upper)?;
    let mut left = BIG;
    take(source, &upper, &mut left)?;
    println!("one layer of {} bytes", BIG - left);
    let upper = Layer::open(upper)?;
    timed("archive alone", || {
        archive::write_layer(&upper, &Stack::default(), Options::default(), io::sink())
    })?;
    for how in [Compression::None, Compression::ZSTD, Compression::GZIP] {
        pipeline(&upper, how, &work.join("blob"))?;
        extract(work)?;
    }
    Ok(())
}

/// Copies regular files until there are enough bytes.
fn take(from: &Path, to: &Path, left: &mut u64) -> io::Result<()> {
    let mut entries: Vec<_> = fs::read_dir(from)?.collect::<Result<_, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let kind = entry.file_type()?;
        let target = to.join(entry.file_name());
        if *left == 0 {
            return Ok(());
        }
        if kind.is_dir() {
            fs::create_dir(&target)?;
            take(&entry.path(), &target, left)?;
        } else if kind.is_file() {
            *left = left.saturating_sub(fs::copy(entry.path(), target)?);
        }
    }
    Ok(())
}
