// Philox4x32-10, the same words as philox.rs for the same key and counter.
#pragma once

struct PhiloxWords {
  u32 at[4];
};

// Four random words for a 128-bit counter under a 64-bit key.
DEVICE PhiloxWords philox_block(PhiloxWords words, u32 key_low, u32 key_high) {
  for (int round = 0; round < 10; round++) {
    u32 first = 0xD2511F53u * words.at[0], second = 0xCD9E8D57u * words.at[2];
    u32 first_high = multiply_high(0xD2511F53u, words.at[0]), second_high = multiply_high(0xCD9E8D57u, words.at[2]);
    words = {{second_high ^ words.at[1] ^ key_low, second, first_high ^ words.at[3] ^ key_high, first}};
    key_low += 0x9E3779B9u;
    key_high += 0xBB67AE85u;
  }
  return words;
}

DEVICE PhiloxWords philox_words(u64 seed, u64 counter) {
  return philox_block({{(u32)counter, (u32)(counter >> 32), 0, 0}}, (u32)seed, (u32)(seed >> 32));
}

// A uniform number in [0, 1) with 53 random bits.
DEVICE double philox_uniform(u64 seed, u64 counter) {
  PhiloxWords words = philox_words(seed, counter);
  return (double)(((u64)words.at[1] << 32 | words.at[0]) >> 11) / 9007199254740992.0;
}
