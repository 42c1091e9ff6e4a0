//! The bodies of the fuzz targets (`fuzz/`), here because what they drive is private. The committed corpus runs with the
//! unit tests too.

mod arena_ops;
mod descriptor_ops;
mod live_damage;
mod ring_ops;
mod segment_open;
mod stage;
mod words;

pub use arena_ops::arena_ops;
pub use descriptor_ops::descriptor_ops;
pub use live_damage::live_damage;
pub use ring_ops::ring_ops;
pub use segment_open::segment_open;
pub use words::words;

#[cfg(test)]
mod tests {
    #[test]
    fn tmp_random() {
        let n: u64 = std::env::var("N").map_or(0, |n| n.parse().unwrap());
        let s: u64 = std::env::var("S").map_or(0, |n| n.parse().unwrap());
        let death: bool = std::env::var("D").is_ok();
        for seed in s..s + n {
            let mut x = seed.wrapping_mul(0x9e3779b97f4a7c15) | 1;
            let mut next = || {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                (x >> 24) as u8
            };
            let len = 3 * (1 + next() as usize);
            let data: Vec<u8> = (0..len)
                .map(|i| {
                    let b = next();
                    if i % 3 == 2 { if death && next() % 8 == 0 { 128 | b } else { 0 } } else { b }
                })
                .collect();
            let r = std::panic::catch_unwind(|| super::descriptor_ops(&data));
            if r.is_err() {
                panic!("seed {seed} len {}", data.len());
            }
        }
    }

    #[test]
    fn tmp_arena() {
        let n: u64 = std::env::var("N").map_or(0, |n| n.parse().unwrap());
        let s: u64 = std::env::var("S").map_or(0, |n| n.parse().unwrap());
        let death: bool = std::env::var("D").is_ok();
        for seed in s..s + n {
            let mut x = seed.wrapping_mul(0x9e3779b97f4a7c15) | 1;
            let mut next = || {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                (x >> 24) as u8
            };
            let len = 3 * (1 + next() as usize);
            let data: Vec<u8> = (0..len)
                .map(|i| {
                    let b = next();
                    if i % 3 == 2 { if death && next() % 8 == 0 { 128 | b } else { 0 } } else { b }
                })
                .collect();
            let r = std::panic::catch_unwind(|| super::arena_ops(&data));
            if r.is_err() {
                panic!("seed {seed} len {}", data.len());
            }
        }
    }

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
