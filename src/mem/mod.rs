//! Memory: which bytes there are and where; it knows nothing of tasks.
//!
//! A segment is mapped by processes of one user that cooperate. A memfd's size is sealed, so no peer can make an access
//! fault by truncating it; pages are allocated before they are used, so that none is missing either; and whatever is read
//! from a segment as an index, a length or a state is checked before it is used.

pub(crate) mod backing;
pub(crate) mod layout;
pub(crate) mod mapping;
pub(crate) mod segment;
pub(crate) mod space;
