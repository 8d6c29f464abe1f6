//! How old an archive is: the time of its newest file. Extracts nothing.

use std::io::Read;

use crate::codec::decoder;

/// Seconds since 1970 of the newest regular file of an archive, compressed or not; `None` for what is no archive, or holds
/// no file.
pub fn newest_file(archive: impl Read + Send) -> Option<i64> {
    let mut archive = tar::Archive::new(decoder(archive).ok()?);
    let mut newest = None;
    for entry in archive.entries().ok()? {
        let entry = entry.ok()?;
        if entry.header().entry_type().is_file() {
            let time = i64::try_from(entry.header().mtime().ok()?).ok();
            newest = newest.max(time);
        }
    }
    newest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(times: &[u64]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (number, &time) in times.iter().enumerate() {
            let mut header = tar::Header::new_gnu();
            header.set_mtime(time);
            header.set_size(1);
            header.set_cksum();
            tar.append_data(&mut header, format!("f{number}"), &b"x"[..])
                .unwrap();
        }
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mtime(1 << 40);
        header.set_size(0);
        header.set_cksum();
        tar.append_data(&mut header, "dir", &b""[..]).unwrap();
        tar.into_inner().unwrap()
    }

    #[test]
    fn the_newest_file_counts_and_directories_do_not() {
        assert_eq!(newest_file(&archive(&[5, 700, 6])[..]), Some(700));
        assert_eq!(newest_file(&archive(&[])[..]), None);
        assert_eq!(newest_file(&b"FROM scratch\n"[..]), None);
        assert_eq!(newest_file(&b"\x1f\x8b\x08broken"[..]), None);
    }
}
