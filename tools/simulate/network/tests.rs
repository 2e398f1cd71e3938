//! Compares the approximation with the exact computation.

use super::{Forecast, Link, Network, ROUNDING, TOLERANCE};

/// The same flows in an approximate and an exact network.
struct Pair {
    about: Network,
    exact: Network,
    forecasts: Vec<Forecast>,
    /// Ids of each flow in the approximate and in the exact network.
    flows: Vec<(usize, usize)>,
}

impl Pair {
    fn new(links: usize, random: &mut fastrand::Rng) -> Self {
        let rates: Vec<(f64, f64)> =
            (0..links).map(|_| (1e6 * 30f64.powf(random.f64()), 1e6 * 30f64.powf(random.f64()))).collect();
        let network = |exact| {
            let links = rates.iter().map(|(up, down)| Link::new(*up, *down)).collect();
            Network { exact, ..Network::new(links) }
        };
        Self { about: network(false), exact: network(true), forecasts: Vec::new(), flows: Vec::new() }
    }

    fn start(&mut self, ends: (usize, usize), weight: (f64, f64)) {
        let about = self.about.start(ends, 1e9, weight, 0.0, &mut self.forecasts);
        let exact = self.exact.start(ends, 1e9, weight, 0.0, &mut self.forecasts);
        self.flows.push((about, exact));
    }

    fn end(&mut self, at: usize) {
        let (about, exact) = self.flows.swap_remove(at);
        self.about.end(about, 0.0, &mut self.forecasts);
        self.exact.end(exact, 0.0, &mut self.forecasts);
    }

    fn rates(&self) -> Vec<(f64, f64)> {
        let rate = |network: &Network, id: usize| network.flows[id].as_ref().map_or(0.0, |flow| flow.rate);
        self.flows
            .iter()
            .map(|(about, exact)| (rate(&self.about, *about), rate(&self.exact, *exact)))
            .collect()
    }

    fn check_capacity(&self) {
        for direction in &self.about.directions {
            let rates = direction
                .lanes
                .iter()
                .filter_map(|lane| self.about.flows[lane.flow].as_ref())
                .map(|flow| flow.rate);
            let sum: f64 = rates.sum();
            assert!(sum <= direction.capacity * (1.0 + ROUNDING * 100.0), "{sum} of {}", direction.capacity);
        }
    }
}

/// Starts and ends flows at random; returns the worst and the mean error of the flows' rates, and that of their sum.
fn compare(links: usize, flows: usize, seed: u64) -> (f64, f64, f64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut pair = Pair::new(links, &mut random);
    let (mut worst, mut sum, mut count, mut total) = (0f64, 0.0, 0.0, 0f64);
    for step in 0..flows * 6 {
        if pair.flows.len() >= flows || random.u32(..8) == 0 && !pair.flows.is_empty() {
            pair.end(random.usize(..pair.flows.len()));
        }
        let (from, to) = (random.usize(..links), random.usize(..links));
        if from != to {
            let most = if random.u8(..3) == 0 { 1e5 + 1e6 * random.f64() } else { f64::INFINITY };
            pair.start((from, to), (0.7 + 0.7 * random.f64(), most));
        }
        pair.check_capacity();
        if step < flows {
            continue;
        }
        let rates = pair.rates();
        for (about, exact) in &rates {
            let error = (about / exact - 1.0).abs();
            worst = worst.max(error);
            sum += error;
            count += 1.0;
        }
        let (about, exact) = rates.iter().fold((0.0, 0.0), |sum, rates| (sum.0 + rates.0, sum.1 + rates.1));
        total = total.max((about / exact - 1.0).abs());
    }
    (worst, sum / count, total)
}

#[test]
fn the_approximation_is_close_to_the_exact_computation() {
    let one = |seed, links, flows| {
        let (worst, mean, total) = compare(links, flows, seed);
        println!("{links} links, {flows} flows: worst {worst:.4}, mean {mean:.4}, total {total:.4}");
        assert!(worst < 0.2 && mean < 0.001 && total < 0.005, "{links} links, {flows} flows, seed {seed}");
    };
    std::thread::scope(|scope| {
        for seed in 0..6 {
            for (links, flows) in [(12, 10), (30, 60), (40, 200), (80, 320)] {
                scope.spawn(move || one(seed, links, flows));
            }
        }
    });
}

#[test]
fn a_flow_limited_at_its_other_end_leaves_bandwidth_to_others() {
    let links = vec![Link::new(100.0, 100.0), Link::new(100.0, 10.0), Link::new(100.0, 500.0)];
    let mut network = Network { exact: false, ..Network::new(links) };
    let mut forecasts = Vec::new();
    let narrow = network.start((0, 1), 100.0, (1.0, f64::INFINITY), 0.0, &mut forecasts);
    let wide = network.start((0, 2), 100.0, (1.0, f64::INFINITY), 0.0, &mut forecasts);
    let rate = |network: &Network, id: usize| network.flows[id].as_ref().unwrap().rate;
    assert!((rate(&network, narrow) - 10.0).abs() < 10.0 * TOLERANCE);
    assert!((rate(&network, wide) - 90.0).abs() < 90.0 * TOLERANCE);
    network.end(narrow, 1.0, &mut forecasts);
    assert!((rate(&network, wide) - 100.0).abs() < 100.0 * TOLERANCE);
}
