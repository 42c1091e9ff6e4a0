#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| shmworker::fuzz::recover(data));
