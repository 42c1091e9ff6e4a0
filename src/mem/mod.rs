//! Memory: which bytes there are and where; it knows nothing of tasks.
//!
//! A segment is mapped by processes of one user that cooperate. Its size is sealed, so no peer can make an access fault by
//! truncating it; whatever is read from it as an index, a length or a state is checked before it is used.

pub(crate) mod layout;
pub(crate) mod segment;
