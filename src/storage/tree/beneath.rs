//! Opens entries below an open directory without following any link.

use rustix::fs::{Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::{Errno, retry_on_intr};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

/// Opens the entry of a [`TreePath`](crate::content::tree::TreePath); an empty path is the directory itself. No component
/// may be a symbolic link.
///
/// # Errors
/// Those of open(2); a link is `ELOOP`, or `ENOTDIR` where a directory is expected.
pub(in crate::storage) fn open(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let name = if path.is_empty() { b"." } else { path };
    let opened = retry_on_intr(|| {
        openat2(root, OsStr::from_bytes(name), flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)
    });
    match opened {
        // A kernel before 5.6, a filter of system calls, or a path above the limit of one call.
        Err(Errno::NOSYS | Errno::PERM | Errno::NAMETOOLONG) => open_by_components(root, name, flags),
        opened => Ok(opened?),
    }
}

fn open_by_components(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut above: Option<OwnedFd> = None;
    let mut components = path.split(|byte| *byte == b'/').peekable();
    while let Some(component) = components.next() {
        let flags = if components.peek().is_some() { directory } else { flags };
        let here = above.as_ref().map_or(root, |above| above.as_fd());
        above = Some(retry_on_intr(|| openat(here, OsStr::from_bytes(component), flags, Mode::empty()))?);
    }
    above.ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;

    #[test]
    fn no_link_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        fs::create_dir_all(path.join("a/b")).unwrap();
        fs::write(path.join("a/b/file"), "x").unwrap();
        symlink("a", path.join("link")).unwrap();
        symlink("b/file", path.join("a/to-file")).unwrap();
        let root = File::open(path).unwrap();
        type Open = fn(BorrowedFd<'_>, &[u8], OFlags) -> io::Result<OwnedFd>;
        let by_components: Open =
            |root, path, flags| open_by_components(root, path, flags | OFlags::NOFOLLOW);
        for open in [open as Open, by_components] {
            let open = |path: &[u8]| open(root.as_fd(), path, OFlags::RDONLY);
            assert!(open(b"a/b/file").is_ok() && open(b"a/b").is_ok());
            for linked in [&b"link"[..], b"link/b/file", b"a/to-file"] {
                assert!(open(linked).is_err(), "{linked:?}");
            }
            assert_eq!(open(b"a/missing").unwrap_err().kind(), io::ErrorKind::NotFound);
        }
        assert!(super::open(root.as_fd(), b"", OFlags::RDONLY | OFlags::DIRECTORY).is_ok());
    }

    #[test]
    fn a_path_above_the_limit_of_one_call_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        let root = File::open(folder.path()).unwrap();
        let name = [b'x'; 250];
        let mut above: OwnedFd = root.try_clone().unwrap().into();
        let mut path = Vec::new();
        for level in 0..17 {
            rustix::fs::mkdirat(&above, OsStr::from_bytes(&name), Mode::RWXU).unwrap();
            path.extend([if level == 0 { &b""[..] } else { b"/" }, &name[..]].concat());
            above = super::open(root.as_fd(), &path, OFlags::RDONLY | OFlags::DIRECTORY).unwrap();
        }
        assert!(path.len() > 4_096);
    }
}
