#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| targets::suffix_list(input));
