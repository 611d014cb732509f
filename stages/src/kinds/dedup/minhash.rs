//! Near duplicates by MinHash and locality-sensitive banding (Broder 1997; Leskovec, Rajaraman, Ullman, ch. 3): sketches propose
//! pairs, the true Jaccard similarity of their shingles decides.

use rayon::prelude::*;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

crate::choice! {
    /// What a shingle is counted in.
    pub enum Unit { "characters" => Characters, "words" => Words }
}

crate::choice! {
    /// Whether two texts with different numbers in them can be near duplicates.
    pub enum Numbers {
        /// They cannot: exam questions often differ by one number only.
        "must_match" => MustMatch,
        "free" => Free,
    }
}

crate::settings! {
    /// When two texts are nearly the same.
    pub struct Near {
        /// Jaccard similarity of the shingle sets, from here on they are duplicates.
        pub similarity: f64 = 0.85,
        /// Length of a shingle, in `unit`.
        pub shingle: usize = 5,
        pub unit: Unit = Unit::Characters,
        pub numbers: Numbers = Numbers::MustMatch,
    }
}

impl Default for Near {
    fn default() -> Near {
        Near { similarity: 0.85, shingle: 5, unit: Unit::Characters, numbers: Numbers::MustMatch }
    }
}

impl Near {
    /// The key and what is wrong with its value.
    pub fn fault(&self) -> Option<(&'static str, String)> {
        if !(0.1..=1.0).contains(&self.similarity) {
            return Some(("similarity", format!("`{}` is not between 0.1 and 1", self.similarity)));
        }
        (self.shingle == 0).then(|| ("shingle", "a shingle needs at least one character or word".to_string()))
    }
}

/// Hash functions a sketch; enough for the bands to miss fewer than one pair in a hundred at the threshold.
const SKETCH: usize = 128;

/// One hash function each: multiplication by an odd number permutes the shingles, which are well mixed already.
const FACTORS: [u64; SKETCH] = {
    let mut factors = [0; SKETCH];
    let mut index = 0;
    while index < SKETCH {
        factors[index] = mix(index as u64) | 1;
        index += 1;
    }
    factors
};

/// For each text the first kept text that it nearly repeats, with their similarity. Texts are expected to be folded already.
/// A text is compared with kept ones only, so that a chain of small changes is not swallowed whole.
pub fn near_duplicates(texts: &[String], near: &Near) -> Vec<Option<(usize, f64)>> {
    let rows = band_rows(near.similarity);
    let sets: Vec<Vec<u64>> = texts.par_iter().map(|text| shingles(text, near)).collect();
    let bands: Vec<Vec<u64>> =
        texts.par_iter().zip(&sets).map(|(text, set)| band_keys(set, rows, numbers_key(text, near.numbers))).collect();
    let mut buckets: HashMap<u64, Vec<u32>, BuildHasherDefault<Through>> = HashMap::default();
    let mut found = vec![None; texts.len()];
    for index in 0..texts.len() {
        found[index] = nearest_kept(index, &bands[index], &buckets, &sets, near.similarity);
        if found[index].is_none() {
            bands[index].iter().for_each(|&key| buckets.entry(key).or_default().push(index as u32));
        }
    }
    found
}

fn nearest_kept(
    index: usize,
    bands: &[u64],
    buckets: &HashMap<u64, Vec<u32>, BuildHasherDefault<Through>>,
    sets: &[Vec<u64>],
    threshold: f64,
) -> Option<(usize, f64)> {
    let mut candidates: Vec<u32> = bands.iter().filter_map(|key| buckets.get(key)).flatten().copied().collect();
    candidates.sort_unstable();
    candidates.dedup();
    let similar = |&other: &u32| Some((other as usize, jaccard(&sets[index], &sets[other as usize])));
    candidates.iter().filter_map(similar).find(|&(_, similarity)| similarity >= threshold)
}

/// The distinct shingles of a text as sorted hashes; a text shorter than one shingle is a shingle itself.
pub fn shingles(text: &str, near: &Near) -> Vec<u64> {
    let mut set: Vec<u64> = match near.unit {
        Unit::Characters => windows(&text.chars().map(u64::from).collect::<Vec<_>>(), near.shingle),
        Unit::Words => windows(&text.split_whitespace().map(hash_text).collect::<Vec<_>>(), near.shingle),
    };
    set.sort_unstable();
    set.dedup();
    set
}

fn windows(units: &[u64], length: usize) -> Vec<u64> {
    let length = length.min(units.len()).max(1);
    units.windows(length).map(|window| window.iter().fold(0, |hash, &unit| mix(hash ^ unit))).collect()
}

/// |A ∩ B| / |A ∪ B| of two sorted sets; two empty sets are equal.
pub fn jaccard(left: &[u64], right: &[u64]) -> f64 {
    let (mut i, mut j, mut shared) = (0, 0, 0usize);
    while i < left.len() && j < right.len() {
        let order = left[i].cmp(&right[j]);
        shared += usize::from(order.is_eq());
        i += usize::from(order.is_le());
        j += usize::from(order.is_ge());
    }
    let union = left.len() + right.len() - shared;
    if union == 0 { 1.0 } else { shared as f64 / union as f64 }
}

/// The longest bands that still propose 99 % of the pairs at the threshold: P = 1 − (1 − sʳ)^(k/r).
fn band_rows(similarity: f64) -> usize {
    let recall = |rows: &usize| 1.0 - (1.0 - similarity.powi(*rows as i32)).powi((SKETCH / rows) as i32);
    (1..=SKETCH / 4).rev().find(|rows| recall(rows) >= 0.99).unwrap_or(1)
}

/// One bucket key a band. What must match besides goes into the key, so that it never costs a comparison.
fn band_keys(set: &[u64], rows: usize, besides: u64) -> Vec<u64> {
    let mut sketch = [u64::MAX; SKETCH];
    for &shingle in set {
        for (index, least) in sketch.iter_mut().enumerate() {
            *least = (*least).min(shingle.wrapping_mul(FACTORS[index]));
        }
    }
    let key = |(band, rows): (usize, &[u64])| rows.iter().fold(mix(besides ^ band as u64), |key, &row| mix(key ^ row));
    sketch.chunks_exact(rows).enumerate().map(key).collect()
}

/// The numbers of a text in their order.
fn numbers_key(text: &str, numbers: Numbers) -> u64 {
    let words = || text.split(|c: char| !c.is_ascii_digit() && c != '.').filter(|word| !word.is_empty());
    match numbers {
        Numbers::MustMatch => words().fold(1, |hash, word| mix(hash ^ hash_text(word))),
        Numbers::Free => 0,
    }
}

fn hash_text(text: &str) -> u64 {
    u64::from_le_bytes(blake3::hash(text.as_bytes()).as_bytes()[..8].try_into().expect("a hash has 32 bytes"))
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014).
const fn mix(mut bits: u64) -> u64 {
    bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// Band keys are hashes already.
#[derive(Default)]
struct Through(u64);

impl Hasher for Through {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {
        unreachable!("only 64-bit keys are hashed here")
    }
    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draw::Draw;

    /// The same by comparing every pair.
    fn by_all_pairs(texts: &[String], near: &Near) -> Vec<Option<(usize, f64)>> {
        let sets: Vec<Vec<u64>> = texts.iter().map(|text| shingles(text, near)).collect();
        let numbers: Vec<u64> = texts.iter().map(|text| numbers_key(text, near.numbers)).collect();
        let mut found: Vec<Option<(usize, f64)>> = Vec::new();
        for index in 0..texts.len() {
            let kept = (0..index).filter(|&other| found[other].is_none() && numbers[other] == numbers[index]);
            let similar = kept.map(|other| (other, jaccard(&sets[index], &sets[other])));
            let nearest = similar.into_iter().find(|&(_, similarity)| similarity >= near.similarity);
            found.push(nearest);
        }
        found
    }

    /// Texts of 30 words, most of them an earlier one with a few words changed.
    fn texts(draw: &Draw, count: usize) -> Vec<String> {
        let mut texts: Vec<Vec<String>> = Vec::new();
        for index in 0..count as u64 {
            let draw = draw.at(index);
            let fresh = |place: usize| format!("word{}", draw.of("word").at(place as u64).below(5_000));
            let mut words: Vec<String> = (0..30).map(fresh).collect();
            if index > 0 && draw.of("copies").chance(0.7) {
                let original = texts[draw.of("original").below(index as usize)].clone();
                let changes = draw.of("changes").below(6);
                let places: Vec<usize> = (0..changes).map(|n| draw.of("place").at(n as u64).below(30)).collect();
                let changed = |(place, word)| if places.contains(&place) { words[place].clone() } else { word };
                words = original.into_iter().enumerate().map(changed).collect();
            }
            texts.push(words);
        }
        texts.into_iter().map(|words| words.join(" ")).collect()
    }

    #[test]
    fn banding_finds_what_comparing_all_pairs_finds() {
        for (similarity, unit, shingle) in
            [(0.85, Unit::Characters, 5), (0.7, Unit::Words, 2), (0.5, Unit::Characters, 4)]
        {
            let near = Near { similarity, shingle, unit, numbers: Numbers::Free };
            let texts = texts(&Draw::new(5, "near"), 600);
            let (found, expected) = (near_duplicates(&texts, &near), by_all_pairs(&texts, &near));
            let wanted = expected.iter().flatten().count();
            let missed = expected.iter().zip(&found).filter(|(all, banded)| all.is_some() && banded.is_none()).count();
            assert!(wanted > 50, "the texts hold too few duplicates to tell: {wanted}");
            assert!(missed * 50 <= wanted, "{missed} of {wanted} missed at {similarity}");
            for (index, &(first, similarity)) in
                found.iter().enumerate().filter_map(|(i, pair)| Some((i, pair.as_ref()?)))
            {
                assert!(found[first].is_none(), "a dropped text stands for another");
                let (left, right) = (shingles(&texts[index], &near), shingles(&texts[first], &near));
                assert_eq!(similarity, jaccard(&left, &right));
                assert!(similarity >= near.similarity);
            }
        }
    }

    #[test]
    fn bands_are_as_long_as_recall_allows() {
        assert_eq!([0.5, 0.8, 0.85, 0.95].map(band_rows), [3, 6, 8, 16]);
    }

    #[test]
    fn jaccard_of_small_sets() {
        let check = |left: &[u64], right: &[u64], expected: f64| assert_eq!(jaccard(left, right), expected);
        check(&[1, 2, 3], &[2, 3, 4], 0.5);
        check(&[], &[], 1.0);
        check(&[1], &[], 0.0);
    }
}
