//! Writes tar archives whose bytes equal those of Go's `archive/tar` for the same headers: USTAR where it fits
//! (with a split of long paths), a PAX record of the fields that do not fit otherwise. The same input always
//! gives the same bytes. It decides nothing about which entries there are.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use crate::stat::Time;

const BLOCK: usize = 512;
const NAME: usize = 100;
const PREFIX: usize = 155;
const COPY_BUFFER: usize = 256 << 10;

/// What an archive entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// Regular file.
    File,
    /// Another name of an earlier entry.
    HardLink,
    /// Symbolic link.
    Symlink,
    /// Character device.
    Char,
    /// Block device.
    Block,
    /// Directory; its name ends in `/`.
    Dir,
    /// Named pipe.
    Fifo,
}

impl Type {
    fn flag(self) -> u8 {
        match self {
            Self::File => b'0',
            Self::HardLink => b'1',
            Self::Symlink => b'2',
            Self::Char => b'3',
            Self::Block => b'4',
            Self::Dir => b'5',
            Self::Fifo => b'6',
        }
    }
}

/// Name and value of an extended attribute.
pub type Xattr<'a> = (Cow<'a, [u8]>, Cow<'a, [u8]>);

/// Header of one entry. Only whole seconds of `mtime` are written.
#[derive(Debug, Clone)]
pub struct Header<'a> {
    /// Path, relative, with a trailing `/` for a directory.
    pub name: Cow<'a, [u8]>,
    /// What it is.
    pub kind: Type,
    /// Target of a link.
    pub link: Cow<'a, [u8]>,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes of contents that follow.
    pub size: u64,
    /// Time of last change.
    pub mtime: Time,
    /// Device numbers.
    pub device: (u32, u32),
    /// Extended attributes, name without `SCHILY.xattr.`.
    pub xattrs: Vec<Xattr<'a>>,
}

impl<'a> Header<'a> {
    /// A header of that name and kind; everything else zero.
    pub fn new(name: impl Into<Cow<'a, [u8]>>, kind: Type) -> Self {
        Self {
            name: name.into(),
            kind,
            link: Cow::Borrowed(b""),
            mode: 0,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: Time::default(),
            device: (0, 0),
            xattrs: Vec::new(),
        }
    }
}

/// Writes an archive.
#[derive(Debug)]
pub struct Writer<W: Write> {
    out: W,
    buffer: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// An archive that goes to `out`.
    pub fn new(out: W) -> Self {
        Self {
            out,
            buffer: Vec::new(),
        }
    }

    /// Writes an entry without contents.
    pub fn header(&mut self, header: &Header<'_>) -> io::Result<()> {
        self.out.write_all(&encode(header)?)
    }

    /// Writes a regular file with its contents.
    pub fn bytes(&mut self, header: &Header<'_>, contents: &[u8]) -> io::Result<()> {
        self.header(header)?;
        self.out.write_all(contents)?;
        self.pad(header.size)
    }

    /// Writes a regular file, its contents from a reader that must give `header.size` bytes.
    pub fn file(&mut self, header: &Header<'_>, mut contents: impl Read) -> io::Result<()> {
        self.header(header)?;
        self.buffer.resize(COPY_BUFFER, 0);
        let mut left = header.size;
        while left > 0 {
            let want = usize::try_from(left).map_or(COPY_BUFFER, |left| left.min(COPY_BUFFER));
            let got = contents.read(&mut self.buffer[..want])?;
            if got == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.out.write_all(&self.buffer[..got])?;
            left -= got as u64;
        }
        self.pad(header.size)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        self.out.write_all(&[0; BLOCK][..padding(size)])
    }

    /// Ends the archive and gives the writer back.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        Ok(self.out)
    }
}

/// Zero bytes after contents of that size.
fn padding(size: u64) -> usize {
    usize::try_from(size.wrapping_neg() % BLOCK as u64).unwrap_or(0)
}

/// The blocks of a header, PAX record included.
fn encode(header: &Header<'_>) -> io::Result<Vec<u8>> {
    let prefix = split(&header.name);
    let records = records(header, prefix.is_some())?;
    let mut out = Vec::with_capacity(BLOCK);
    if records.is_empty() {
        let (prefix, name) = prefix.unwrap_or((b"", &header.name));
        let mut block = block(header, name, &header.link);
        put_string(&mut block[345..500], prefix);
        seal(&mut block);
        out.extend_from_slice(&block);
        return Ok(out);
    }
    extended(&mut out, &header.name, &records);
    let mut block = block(header, &ascii(&header.name), &ascii(&header.link));
    seal(&mut block);
    out.extend_from_slice(&block);
    Ok(out)
}

/// Values that USTAR cannot hold. A name that can be split is only among them if another value forces the record.
fn records(header: &Header<'_>, split: bool) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut numbers = [
        (&b"uid"[..], i64::from(header.uid), 8),
        (b"gid", i64::from(header.gid), 8),
        (b"mtime", header.mtime.sec, 12),
        (b"size", i64::try_from(header.size).unwrap_or(i64::MAX), 12),
    ]
    .into_iter();
    found.extend(
        numbers
            .by_ref()
            .filter(|(_, value, width)| !fits(*value, *width))
            .map(|(key, value, _)| (key.to_vec(), value.to_string().into_bytes())),
    );
    if is_long(&header.link) {
        found.insert(b"linkpath".to_vec(), header.link.to_vec());
    }
    for (name, value) in &header.xattrs {
        found.insert([b"SCHILY.xattr.", &name[..]].concat(), value.to_vec());
    }
    if is_long(&header.name) && (!split || !found.is_empty()) {
        found.insert(b"path".to_vec(), header.name.to_vec());
    }
    let damaged = |(key, value): (&Vec<u8>, &Vec<u8>)| {
        let text = matches!(&key[..], b"path" | b"linkpath");
        key.contains(&b'=') || key.contains(&0) || (text && value.contains(&0))
    };
    if found.iter().any(damaged) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "name that tar cannot hold",
        ));
    }
    Ok(found)
}

/// The entry of type `x` that carries records for the next one.
fn extended(out: &mut Vec<u8>, name: &[u8], records: &BTreeMap<Vec<u8>, Vec<u8>>) {
    let data: Vec<u8> = records
        .iter()
        .flat_map(|(key, value)| record(key, value))
        .collect();
    let (dir, file) = name.split_at(name.iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1));
    let mut parts = vec![dir.strip_suffix(b"/").unwrap_or(dir), b"PaxHeaders.0", file];
    parts.retain(|part| !part.is_empty());
    let mut name = ascii(&parts.join(&b'/')).into_owned();
    name.truncate(NAME);
    while name.last() == Some(&b'/') {
        name.pop();
    }
    let mut block = [0; BLOCK];
    put_string(&mut block[..NAME], &name);
    for field in [100..108, 108..116, 116..124, 136..148] {
        put_octal(&mut block[field], 0);
    }
    put_octal(&mut block[124..136], data.len() as u64);
    block[156] = b'x';
    seal(&mut block);
    out.extend_from_slice(&block);
    out.extend_from_slice(&data);
    out.resize(out.len() + padding(data.len() as u64), 0);
}

/// `LENGTH KEY=VALUE\n`, where the length counts itself.
fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let bare = key.len() + value.len() + 3;
    let mut size = bare + digits(bare);
    size = bare + digits(size);
    [size.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

fn digits(number: usize) -> usize {
    number.to_string().len()
}

/// The fields that all formats share.
fn block(header: &Header<'_>, name: &[u8], link: &[u8]) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    put_string(&mut block[..NAME], name);
    put_octal(&mut block[100..108], header.mode.into());
    put_octal(&mut block[108..116], header.uid.into());
    put_octal(&mut block[116..124], header.gid.into());
    put_octal(&mut block[124..136], header.size);
    put_octal(
        &mut block[136..148],
        u64::try_from(header.mtime.sec).unwrap_or(0),
    );
    block[156] = header.kind.flag();
    put_string(&mut block[157..257], link);
    put_octal(&mut block[329..337], header.device.0.into());
    put_octal(&mut block[337..345], header.device.1.into());
    block
}

/// Magic, version and checksum.
fn seal(block: &mut [u8; BLOCK]) {
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[148..156].fill(b' ');
    let sum = block.iter().map(|b| u64::from(*b)).sum();
    put_octal(&mut block[148..155], sum);
}

/// Zero-padded octal digits and a NUL; a value that does not fit is left to the record and written as zero.
fn put_octal(field: &mut [u8], value: u64) {
    let width = field.len() - 1;
    let fits = i64::try_from(value).is_ok_and(|value| fits(value, field.len()));
    let digits = format!("{:0width$o}", if fits { value } else { 0 });
    field[..width].copy_from_slice(digits.as_bytes());
    field[width] = 0;
}

fn fits(value: i64, width: usize) -> bool {
    value >= 0 && (width >= 22 || value < 1 << ((width - 1) * 3))
}

/// As much of the text as fits; what ended in a slash only by being cut does not.
fn put_string(field: &mut [u8], text: &[u8]) {
    let len = text.len().min(field.len());
    field[..len].copy_from_slice(&text[..len]);
    if text.len() > field.len() && field.last() == Some(&b'/') {
        let end = field[..len - 1]
            .iter()
            .rposition(|b| *b != b'/')
            .map_or(0, |at| at + 1);
        field[end] = 0;
    }
}

fn is_long(text: &[u8]) -> bool {
    text.len() > NAME || !is_ascii(text)
}

fn is_ascii(text: &[u8]) -> bool {
    text.iter().all(|b| (1..0x80).contains(b))
}

/// The text without what is not ASCII.
fn ascii(text: &[u8]) -> Cow<'_, [u8]> {
    if is_ascii(text) {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(
            text.iter()
                .copied()
                .filter(|b| (1..0x80).contains(b))
                .collect(),
        )
    }
}

/// Splits a long path into USTAR's prefix and name, where that is possible.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.len() <= NAME || !is_ascii(path) {
        return None;
    }
    let mut len = path.len().min(PREFIX + 1);
    if len == path.len() && path[len - 1] == b'/' {
        len -= 1;
    }
    let at = path[..len].iter().rposition(|b| *b == b'/')?;
    let rest = path.len() - at - 1;
    (at > 0 && rest > 0 && rest <= NAME).then(|| (&path[..at], &path[at + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use shipway_model::Digest;

    fn header(name: &[u8], kind: Type) -> Header<'_> {
        Header {
            mode: 0o644,
            mtime: Time {
                sec: 1_700_000_000,
                nsec: 5,
            },
            ..Header::new(name, kind)
        }
    }

    /// Sizes and digests of what Go 1.26 writes for the same headers.
    #[test]
    #[expect(clippy::too_many_lines, reason = "a table of cases")]
    fn headers_are_those_of_go() {
        let at = |sec| Time { sec, nsec: 0 };
        let long = [b"d/".repeat(60), b"file".to_vec()].concat();
        let long_dir = [&long[..], b"/"].concat();
        let one = b"x".repeat(120);
        let one_dir = [&one[..], b"/"].concat();
        let edge = [&b"y".repeat(99)[..], b"/"].concat();
        let cut = [&b"e".repeat(99)[..], b"/", &b"z".repeat(120)].concat();
        let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
        let cases: Vec<(Header<'_>, usize, &str)> = vec![
            (
                Header {
                    size: 3,
                    ..header(b"f", Type::File)
                },
                512,
                "49bfc754b22fc11d",
            ),
            (
                Header {
                    mode: 0o1777,
                    mtime: at(0),
                    ..header(b"d/", Type::Dir)
                },
                512,
                "e90ef5b00782fdfb",
            ),
            (header(&long, Type::File), 512, "a220d0428be833d4"),
            (header(&one, Type::File), 1536, "df1d3ec8f50b61a8"),
            (
                header("a/é.txt".as_bytes(), Type::File),
                1536,
                "94631b0a051d8cf3",
            ),
            (header(b"a/\xff\xfe", Type::File), 1536, "18a4d1d990b04051"),
            (
                Header {
                    mode: 0o4755,
                    uid: 2_097_152,
                    gid: 3_000_000,
                    ..header(b"u", Type::File)
                },
                1536,
                "b1f106fcfb41fee7",
            ),
            (
                Header {
                    mtime: at(-5),
                    ..header(b"neg", Type::File)
                },
                1536,
                "1dff45d331335e40",
            ),
            (
                Header {
                    mtime: at(8_589_934_592),
                    ..header(b"late", Type::File)
                },
                1536,
                "45505826f52090f6",
            ),
            (
                Header {
                    mtime: at(1),
                    xattrs: vec![(b"security.capability"[..].into(), capability[..].into())],
                    ..header(b"cap", Type::File)
                },
                1536,
                "77d17beb77abecba",
            ),
            (
                Header {
                    link: (&one[..]).into(),
                    mode: 0o777,
                    ..header(b"l", Type::Symlink)
                },
                1536,
                "d3758804ed532842",
            ),
            (
                Header {
                    link: (&long[..]).into(),
                    ..header(b"h", Type::HardLink)
                },
                1536,
                "38f261728799082e",
            ),
            (
                Header {
                    mode: 0o600,
                    device: (5, 1),
                    ..header(b"c", Type::Char)
                },
                512,
                "8a91d7ee58422327",
            ),
            (
                Header {
                    mode: 0o755,
                    ..header(&one_dir, Type::Dir)
                },
                1536,
                "fb8a8170b081e1eb",
            ),
            (
                Header {
                    mode: 0o755,
                    ..header(&edge, Type::Dir)
                },
                512,
                "753708b02699f7ac",
            ),
            (
                Header {
                    mode: 0o755,
                    ..header(&long_dir, Type::Dir)
                },
                512,
                "35582262b1841c0f",
            ),
            (header(&cut, Type::File), 1536, "d2f18e271911eef9"),
            (
                Header {
                    size: 1 << 33,
                    ..header(b"big", Type::File)
                },
                1536,
                "7e951718aac628a5",
            ),
        ];
        for (at, (header, size, digest)) in cases.into_iter().enumerate() {
            let bytes = encode(&header).unwrap();
            assert_eq!(bytes.len(), size, "size of case {at}");
            assert!(
                Digest::of(&bytes).hex().starts_with(digest),
                "bytes of case {at}"
            );
        }
    }

    #[test]
    fn an_empty_archive_is_the_known_empty_layer() {
        let bytes = Writer::new(Vec::new()).finish().unwrap();
        let digest = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef";
        assert_eq!(Digest::of(bytes).to_string(), digest);
    }

    #[test]
    fn contents_are_padded_to_blocks() {
        let mut writer = Writer::new(Vec::new());
        let header = Header {
            size: 3,
            ..header(b"f", Type::File)
        };
        writer.bytes(&header, b"abc").unwrap();
        writer.file(&header, &b"abc"[..]).unwrap();
        assert_eq!(writer.finish().unwrap().len(), 4 * BLOCK + 2 * BLOCK);
    }

    proptest! {
        #[test]
        fn any_reader_gets_back_what_was_written(
            name in "[a-zé/]{1,300}",
            link in "[a-z/é]{0,200}",
            uid in 0_u32..4_000_000_000,
            sec in -10_i64..20_000_000_000,
            data in prop::collection::vec(any::<u8>(), 0..2000),
        ) {
            let name = format!("n/{}", name.trim_matches('/').replace("//", "/"));
            let mtime = Time { sec, nsec: 0 };
            let size = data.len() as u64;
            let file = Header { uid, mtime, size, mode: 0o640, ..Header::new(name.as_bytes(), Type::File) };
            let symlink = Header { link: link.as_bytes().into(), ..Header::new(&b"l"[..], Type::Symlink) };
            let mut writer = Writer::new(Vec::new());
            writer.bytes(&file, &data).unwrap();
            writer.header(&symlink).unwrap();
            let bytes = writer.finish().unwrap();
            let mut archive = tar::Archive::new(&bytes[..]);
            let mut entries = archive.entries().unwrap();
            let mut first = entries.next().unwrap().unwrap();
            let mut contents = Vec::new();
            first.read_to_end(&mut contents).unwrap();
            prop_assert_eq!(&*first.path_bytes(), name.as_bytes());
            prop_assert_eq!(contents, data);
            let second = entries.next().unwrap().unwrap();
            prop_assert_eq!(second.link_name_bytes().unwrap_or_default(), link.as_bytes());
            prop_assert!(entries.next().is_none());
        }
    }
}
