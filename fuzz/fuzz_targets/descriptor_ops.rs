#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| shmworker::fuzz::descriptor_ops(data));
