//! The bodies of the fuzz targets (`fuzz/`), here because what they drive is private. The committed corpus runs with the
//! unit tests too.

mod arena_ops;
mod descriptor_ops;
#[cfg(feature = "jobs")]
mod jsonl_line;
mod live_damage;
#[cfg(feature = "pool")]
mod recover;
mod ring_ops;
mod segment_open;
mod stage;
mod words;

pub use arena_ops::arena_ops;
pub use descriptor_ops::descriptor_ops;
#[cfg(feature = "jobs")]
pub use jsonl_line::jsonl_line;
pub use live_damage::live_damage;
#[cfg(feature = "pool")]
pub use recover::recover;
pub use ring_ops::ring_ops;
pub use segment_open::segment_open;
pub use words::words;

#[cfg(test)]
mod tests {
    fn replay(target: &str, body: fn(&[u8])) {
        let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        let files: Vec<_> = std::fs::read_dir(&corpus).unwrap().map(|f| f.unwrap().path()).collect();
        assert!(!files.is_empty(), "{} has no inputs", corpus.display());
        for file in files {
            let input = std::fs::read(&file).unwrap();
            if let Err(cause) = std::panic::catch_unwind(|| body(&input)) {
                eprintln!("the input was {}", file.display());
                std::panic::resume_unwind(cause);
            }
        }
    }

    macro_rules! corpora {
        ($($name:ident $target:ident;)+) => {
            $(#[test]
            fn $name() {
                replay(stringify!($target), super::$target);
            })+
        };
    }
    #[cfg(feature = "jobs")]
    corpora! {
        the_corpus_of_jsonl_line_passes jsonl_line;
    }
    #[cfg(feature = "pool")]
    corpora! {
        the_corpus_of_recover_passes recover;
    }
    corpora! {
        the_corpus_of_words_passes words;
        the_corpus_of_ring_ops_passes ring_ops;
        the_corpus_of_arena_ops_passes arena_ops;
        the_corpus_of_descriptor_ops_passes descriptor_ops;
        the_corpus_of_segment_open_passes segment_open;
        the_corpus_of_live_damage_passes live_damage;
    }
}
