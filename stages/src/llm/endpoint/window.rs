//! How many requests may be in flight: fewer after rounds that the server could not serve, more after those that it could.
//!
//! A few refusals in a round are weather; a server that is crowded shows it in a good part of a round. So a decrease is taken once a
//! round and in proportion to what the round suffered, which halves the window when nothing was served.

/// From this share of refused or timed out requests on, a round counts as crowded.
const CROWDED_SHARE: f64 = 0.25;
/// A round is a window's worth of outcomes, but never so few that their share means nothing.
const ROUND_MIN: f64 = 32.0;

#[derive(Debug, Clone)]
pub struct Window {
    max: f64,
    size: f64,
    /// Below it every answer makes room for one more, so that a window that fell to one is back within a few round trips.
    quick_below: f64,
    outcomes: f64,
    crowded: f64,
}

impl Window {
    pub fn new(max: usize) -> Window {
        let max = max.max(1) as f64;
        Window { max, size: max, quick_below: max, outcomes: 0.0, crowded: 0.0 }
    }

    pub fn limit_to(&mut self, max: usize) {
        self.max = self.max.min(max.max(1) as f64);
        self.size = self.size.min(self.max);
    }

    pub fn has_room(&self, in_flight: usize) -> bool {
        (in_flight as f64) < self.size.floor()
    }

    pub fn max(&self) -> usize {
        self.max as usize
    }

    pub fn served(&mut self) {
        if self.size < self.max {
            let step = if self.size < self.quick_below { 1.0 } else { 1.0 / self.size };
            self.size = (self.size + step).min(self.max);
        }
        self.count(0.0);
    }

    /// A refusal for want of room or rate, or no answer in time.
    pub fn crowded(&mut self) {
        self.count(1.0);
    }

    /// Nothing is served at all for the moment: begin again with one.
    pub fn collapse(&mut self) {
        self.quick_below = (self.size / 2.0).max(self.quick_below * 0.75).max(1.0);
        (self.size, self.outcomes, self.crowded) = (1.0, 0.0, 0.0);
    }

    fn count(&mut self, crowded: f64) {
        self.outcomes += 1.0;
        self.crowded += crowded;
        if self.outcomes < self.size.max(ROUND_MIN) {
            return;
        }
        let share = self.crowded / self.outcomes;
        if share >= CROWDED_SHARE {
            self.size = (self.size * (1.0 - share / 2.0)).max(1.0);
            self.quick_below = self.size;
        }
        (self.outcomes, self.crowded) = (0.0, 0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(window: &Window) -> usize {
        (0..).take_while(|&in_flight| window.has_room(in_flight)).count()
    }

    #[test]
    fn a_round_without_service_halves_the_window_and_service_widens_it_again() {
        let mut window = Window::new(64);
        assert_eq!(size(&window), 64);
        (0..64).for_each(|_| window.crowded());
        assert_eq!(size(&window), 32);
        (0..64).for_each(|_| window.crowded());
        assert_eq!(size(&window), 8, "two rounds of 32");
        (0..9).for_each(|_| window.served());
        assert_eq!(size(&window), 9, "one more after a whole window's answers");
        (0..5000).for_each(|_| window.served());
        assert_eq!(size(&window), 64);
    }

    #[test]
    fn it_never_falls_below_one_and_a_few_refusals_are_weather() {
        let mut window = Window::new(64);
        (0..10_000).for_each(|_| window.crowded());
        assert_eq!(size(&window), 1);
        let mut window = Window::new(64);
        (0..10_000).for_each(|index| if index % 8 == 0 { window.crowded() } else { window.served() });
        assert_eq!(size(&window), 64);
    }

    #[test]
    fn after_a_collapse_most_of_what_was_is_back_soon() {
        let mut window = Window::new(64);
        (0..64).for_each(|_| window.crowded());
        window.collapse();
        assert_eq!(size(&window), 1);
        (0..23).for_each(|_| window.served());
        assert_eq!(size(&window), 24);
        window.served();
        assert_eq!(size(&window), 24);
    }
}
