//! Numbers that are not known yet: certain bounds, an interval that holds them nine times in ten, and what to expect.

use std::iter::Sum;
use std::ops::Add;

/// The standard normal quantile with 5 % above it: ± so many deviations hold 90 %.
const Z: f64 = 1.6449;

/// `low ≤ likely_low ≤ expected ≤ likely_high ≤ high`.
///
/// Ranges add number by number. For the bounds and the expectation that is exact. For the 90 % interval it is so if all terms miss in
/// the same direction, and wider than needed otherwise: a deviation of a sum is at most the sum of the deviations (Minkowski's
/// inequality), and a row more above is a row more below, so terms of one plan do miss together.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Range {
    pub low: f64,
    pub likely_low: f64,
    pub expected: f64,
    pub likely_high: f64,
    pub high: f64,
}

impl Range {
    pub const ZERO: Range = Range { low: 0.0, likely_low: 0.0, expected: 0.0, likely_high: 0.0, high: 0.0 };

    pub fn exactly(value: f64) -> Range {
        Range { low: value, likely_low: value, expected: value, likely_high: value, high: value }
    }

    /// Nothing was measured: it may lie anywhere between the bounds.
    pub fn between(low: f64, expected: f64, high: f64) -> Range {
        let expected = expected.clamp(low, high);
        Range { low, likely_low: low, expected, likely_high: high, high }
    }

    pub fn is_exact(&self) -> bool {
        self.low == self.high
    }

    /// The same with all numbers multiplied by one that is not negative.
    pub fn times(self, factor: f64) -> Range {
        if factor == 0.0 {
            return Range::ZERO; // also of what has no upper end
        }
        self.map(|number| number * factor)
    }

    /// The same, or nothing at all.
    pub fn or_none(self) -> Range {
        Range { low: 0.0, likely_low: 0.0, ..self }
    }

    /// The same within other certain bounds.
    pub fn within(self, low: f64, high: f64) -> Range {
        let inside = |number: f64| number.max(low).min(high);
        let likely = [self.likely_low, self.expected, self.likely_high].map(inside);
        Range { low, likely_low: likely[0], expected: likely[1], likely_high: likely[2], high }
    }

    /// `of` must not fall where its argument rises.
    pub fn map(self, of: impl Fn(f64) -> f64) -> Range {
        Range {
            low: of(self.low),
            likely_low: of(self.likely_low),
            expected: of(self.expected),
            likely_high: of(self.likely_high),
            high: of(self.high),
        }
    }

    /// What so many things come to together, each of them like `each`.
    ///
    /// The variance of a sum of N independent figures with mean μ and variance σ² is E\[N\]·σ² + Var\[N\]·μ² (the law of total
    /// variance: W. Feller, An Introduction to Probability Theory and Its Applications I, XII.1). That μ was measured too adds N²
    /// times its variance (σ²/n for n figures), and for few figures Student's quantile takes the place of the normal one (G. Hahn
    /// and W. Meeker, Statistical Intervals, chapter 4, the prediction interval of a future mean).
    pub fn sum_of(self, each: &Each) -> Range {
        let (count, expected) = (self.expected, self.expected * each.mean);
        let Some(measured_on) = each.measured_on else {
            let (low, high) = (self.likely_low * each.least, self.likely_high * each.most);
            return Range {
                low: self.low * each.least,
                likely_low: low.min(expected),
                expected,
                likely_high: high.max(expected),
                high: self.high * each.most.max(each.mean),
            };
        };
        let own = student(measured_on) * (count * each.variance + count * count * each.mean_variance).sqrt();
        let below = own.hypot((count - self.likely_low) * each.mean);
        let above = own.hypot((self.likely_high - count) * each.mean);
        let (low, high) = (self.low * each.least, self.high * each.most);
        Range {
            low: low.min(expected),
            likely_low: (expected - below).max(low).min(expected),
            expected,
            likely_high: (expected + above).min(high).max(expected),
            high: high.max(expected),
        }
    }
}

/// The 95 % quantile of Student's distribution for `count` figures, expanded around the normal one (M. Abramowitz and I. Stegun,
/// Handbook of Mathematical Functions, 26.7.5, its first two terms).
fn student(count: f64) -> f64 {
    let freedom = (count - 1.0).max(1.0);
    let first = (Z.powi(3) + Z) / 4.0;
    let second = (5.0 * Z.powi(5) + 16.0 * Z.powi(3) + 3.0 * Z) / 96.0;
    Z + first / freedom + second / (freedom * freedom)
}

/// One figure of many that are added: the tokens of a reply, the calls of a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Each {
    pub mean: f64,
    pub variance: f64,
    /// Of the mean itself, as it was measured.
    pub mean_variance: f64,
    /// On how many figures they were measured; `None` where the mean is assumed: then only the bounds hold.
    pub measured_on: Option<f64>,
    pub least: f64,
    pub most: f64,
}

impl Each {
    pub fn assumed(least: f64, mean: f64, most: f64) -> Each {
        Each { mean, variance: 0.0, mean_variance: 0.0, measured_on: None, least, most }
    }

    /// `most` may be infinite.
    pub fn measured(mean: f64, variance: f64, count: f64, most: f64) -> Each {
        let mean_variance = variance / count.max(1.0);
        Each { mean, variance, mean_variance, measured_on: Some(count), least: 0.0, most: most.max(mean) }
    }
}

impl Add for Range {
    type Output = Range;

    fn add(self, other: Range) -> Range {
        Range {
            low: self.low + other.low,
            likely_low: self.likely_low + other.likely_low,
            expected: self.expected + other.expected,
            likely_high: self.likely_high + other.likely_high,
            high: self.high + other.high,
        }
    }
}

impl Sum for Range {
    fn sum<I: Iterator<Item = Range>>(ranges: I) -> Range {
        ranges.fold(Range::ZERO, Add::add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Measured, with a standard deviation, within certain bounds.
    fn measured(low: f64, expected: f64, deviation: f64, high: f64) -> Range {
        let (likely_low, likely_high) = (expected - Z * deviation, expected + Z * deviation);
        Range { low, likely_low, expected, likely_high, high }.within(low, high)
    }

    fn is_ordered(range: &Range) -> bool {
        let numbers = [range.low, range.likely_low, range.expected, range.likely_high, range.high];
        numbers.windows(2).all(|pair| pair[0] <= pair[1] + 1e-9 * pair[1].abs().max(1.0))
    }

    fn ranges() -> impl Strategy<Value = Range> {
        let numbers = (0.0..1e4f64, 0.0..1e4f64, 0.0..1e4f64, 0.0..1e3f64, any::<bool>());
        numbers.prop_map(|(low, above, more, deviation, is_measured)| match is_measured {
            true => measured(low, low + above, deviation, low + above + more),
            false => Range::between(low, low + above, low + above + more),
        })
    }

    fn figures() -> impl Strategy<Value = Each> {
        let numbers = (0.0..500.0f64, 0.0..500.0f64, 0.0..1e4f64, 1.0..1e4f64, any::<bool>());
        numbers.prop_map(|(mean, more, variance, count, is_measured)| match is_measured {
            true => Each::measured(mean, variance, count, mean + more),
            false => Each::assumed(0.0, mean, mean + more),
        })
    }

    proptest! {
        #[test]
        fn sums_and_products_stay_in_order(ranges in prop::collection::vec(ranges(), 0..9), each in figures()) {
            let sum: Range = ranges.iter().copied().sum();
            prop_assert!(is_ordered(&sum), "{sum:?}");
            prop_assert!(is_ordered(&sum.sum_of(&each)), "{:?}", sum.sum_of(&each));
            prop_assert!(is_ordered(&sum.or_none()));
        }

        #[test]
        fn a_sum_is_no_narrower_than_its_terms_and_its_order_is_no_matter(one in ranges(), other in ranges()) {
            let (sum, swapped) = (one + other, other + one);
            prop_assert_eq!(sum, swapped);
            let width = |range: &Range| range.likely_high - range.likely_low;
            prop_assert!(width(&sum) + 1e-6 >= width(&one).max(width(&other)));
            prop_assert!((sum.expected - one.expected - other.expected).abs() < 1e-9);
        }

        #[test]
        fn more_of_the_same_is_more(range in ranges(), each in figures(), factor in 1.0..9.0f64) {
            let (once, often) = (range.sum_of(&each), range.times(factor).sum_of(&each));
            prop_assert!(often.expected + 1e-6 >= once.expected && often.high + 1e-6 >= once.high);
        }
    }

    #[test]
    fn an_exact_count_of_figures_has_the_textbooks_interval() {
        let sum = Range::exactly(100.0).sum_of(&Each::measured(50.0, 25.0, 1e9, f64::INFINITY));
        assert_eq!(sum.expected, 5000.0);
        assert!((sum.likely_high - 5000.0 - 1.6449 * 50.0).abs() < 0.1, "{sum:?}");
        let few = Range::exactly(100.0).sum_of(&Each::measured(50.0, 25.0, 10.0, f64::INFINITY));
        let textbook = 1.8331 * (100.0f64 * 25.0 * 11.0).sqrt();
        assert!((few.likely_high - 5000.0 - textbook).abs() < 0.01 * textbook, "{few:?}");
    }

    /// Of many drawn totals, nine in ten lie inside: counts and figures both vary.
    #[test]
    fn nine_of_ten_totals_lie_inside() {
        let draw = stages::draw::Draw::new(7, "totals");
        let inside = (0..2_000u64).filter(|&trial| {
            let draw = draw.at(trial);
            let count = (0..200u64).filter(|&row| draw.of("row").at(row).unit() < 0.4).count() as u64;
            let total: f64 = (0..count).map(|reply| 100.0 * draw.of("tokens").at(reply).unit()).sum();
            let rows = measured(0.0, 80.0, (200.0f64 * 0.4 * 0.6).sqrt(), 200.0);
            let sum = rows.sum_of(&Each::measured(50.0, 10_000.0 / 12.0, 1e9, 100.0));
            sum.likely_low <= total && total <= sum.likely_high
        });
        let share = inside.count() as f64 / 2_000.0;
        assert!((0.88..0.93).contains(&share), "{share}");
    }

    #[test]
    fn what_costs_nothing_costs_nothing_however_much_it_is() {
        let endless = Range::exactly(3.0).sum_of(&Each::measured(5.0, 1.0, 9.0, f64::INFINITY));
        assert_eq!((endless.high, endless.times(0.0)), (f64::INFINITY, Range::ZERO));
    }

    #[test]
    fn what_was_assumed_is_only_bounded() {
        let sum = Range::between(0.0, 10.0, 20.0).sum_of(&Each::assumed(0.0, 100.0, 400.0));
        assert_eq!((sum.likely_low, sum.expected, sum.likely_high), (0.0, 1000.0, 8000.0));
    }
}
