//! Folders: a tree of directories, files and links as one stream of chunks.
//!
//! The stream begins with the [index](TreeIndex): path, kind and metadata of each entry. The content of the files follows,
//! in the order of the index and without the holes. The offset of each file in the stream is derived from the sizes in
//! the index ([`TreeContent`]) and stored nowhere, so a new modification time changes the chunk of that entry only.
//!
//! Small files share a chunk. The boundaries depend on hashes of the paths (`boundaries.rs`), so that an added or removed
//! file changes few chunks.

mod boundaries;
mod codec;
mod entry;
pub mod filter;
mod index;
mod links;
mod path;
mod stream;

pub use entry::{Entry, EntryKind, Hole, Mtime};
pub use filter::{PathFilter, PathPattern};
pub use index::{EntryError, INDEX_HEADER, TreeError, TreeIndex};
pub use links::leads_outside;
pub use path::{Escaped, PathError, TreePath};
pub use stream::{Piece, TreeContent};
