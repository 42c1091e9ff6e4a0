//! The bodies of the fuzz targets (`fuzz/`), here because what they drive is private. The committed corpus runs with the
//! unit tests too.

mod descriptor_ops;
mod live_damage;
mod ring_ops;
mod segment_open;
mod stage;
mod words;

pub use descriptor_ops::descriptor_ops;
pub use live_damage::live_damage;
pub use ring_ops::ring_ops;
pub use segment_open::segment_open;
pub use words::words;

#[cfg(test)]
mod tests {
    fn replay(target: &str, body: fn(&[u8])) {
        let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        let files: Vec<_> = std::fs::read_dir(&corpus).unwrap().map(|f| f.unwrap().path()).collect();
        assert!(!files.is_empty(), "{} has no inputs", corpus.display());
        files.iter().for_each(|f| body(&std::fs::read(f).unwrap()));
    }

    #[test]
    fn the_corpus_of_words_passes() {
        replay("words", super::words);
    }

    #[test]
    fn the_corpus_of_segment_open_passes() {
        replay("segment_open", super::segment_open);
    }

    #[test]
    fn the_corpus_of_ring_ops_passes() {
        replay("ring_ops", super::ring_ops);
    }
}
