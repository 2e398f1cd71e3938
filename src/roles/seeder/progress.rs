//! Reports about the peers that download from a seeder, and the conditions of `--until` and `--until-idle`.

use crate::content::fmt::counted;
use crate::content::fmt::size;
use crate::report::watch::Watch;
use crate::swarm::distribution::{DistributionView, Stage};
use crate::upload::offers::Offers;
use std::time::{Duration, Instant};

/// Shortest time between two summaries in the log.
const SUMMARY_INTERVAL: Duration = Duration::from_secs(10);

/// When a seeder ends by itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct Until {
    /// Number of different leechers that have reported completion.
    pub complete: Option<usize>,
    /// Time without a request.
    pub idle: Option<Duration>,
}

impl Until {
    /// The reason for which the seeder ends now, if there is one.
    pub(super) fn reason(self, offers: &Offers) -> Option<String> {
        let receivers = offers.receivers();
        let is_transferring = offers.load().users() > 0;
        if !is_transferring && self.complete.is_some_and(|count| receivers.reporters() >= count) {
            return Some(format!(
                "{} reported completion (--until)",
                counted(receivers.reporters() as u64, "leecher")
            ));
        }
        let idle = self.idle.filter(|idle| receivers.idle() >= *idle)?;
        Some(format!("no request for {:.1} s (--until-idle)", idle.as_secs_f64()))
    }
}

/// Numbers of a summary: complete, known, downloading.
type Counts = (u64, u64, usize);

/// The reports so far.
pub(super) struct Reports {
    /// Counts and time of the last summary in the log.
    last: Option<(Counts, Instant)>,
}

impl Reports {
    pub(super) fn new() -> Self {
        Self { last: None }
    }

    /// Shows the peers; if that is not possible, logs a summary now and then.
    pub(super) fn update(&mut self, view: &DistributionView, watch: &dyn Watch, now: Instant) {
        if view.known == 0 || watch.receivers(view) {
            return;
        }
        if let Some(text) = self.summary(view, now) {
            log::info!("{text}");
        }
    }

    /// The summary for the log, if it differs from the last one, which is not too recent.
    fn summary(&mut self, view: &DistributionView, now: Instant) -> Option<String> {
        let downloading = view.rows.iter().filter(|row| row.stage == Stage::Downloading).count();
        let counts = (view.complete, view.known, downloading);
        let is_due = match self.last {
            Some((last, at)) => last != counts && now.saturating_duration_since(at) >= SUMMARY_INTERVAL,
            None => true,
        };
        is_due.then(|| {
            self.last = Some((counts, now));
            let rate = size(view.rate);
            format!("{}, {downloading} downloading, {rate}/s", result(view))
        })
    }
}

/// The result for the last line of a seeder.
pub(super) fn result(view: &DistributionView) -> String {
    format!("{} of {} complete", view.complete, view.known)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::{FileId, PeerName};
    use crate::protocol::tokens::ReportId;
    use crate::swarm::distribution::{CompletionReport, ReceiverKey};

    fn report(offers: &Offers, number: u128) {
        let name = PeerName::new("x").unwrap();
        let (file, label) = (FileId([7; 32]), "x.bin".to_owned());
        let completion = CompletionReport { file, label, size: 9, report: ReportId(number), name };
        offers.receivers().completed(ReceiverKey { ip: [10, 0, 0, 2].into(), port: None }, &completion);
    }

    #[test]
    fn until_counts_runs_of_leechers_and_waits_for_transfers() {
        let offers = Offers::new();
        offers.receivers().record();
        let until = Until { complete: Some(2), idle: None };
        report(&offers, 1);
        report(&offers, 1);
        assert_eq!(until.reason(&offers), None);
        let transfer = offers.load().begin();
        report(&offers, 2);
        assert_eq!(until.reason(&offers), None, "a peer still downloads");
        drop(transfer);
        assert_eq!(until.reason(&offers).as_deref(), Some("2 leechers reported completion (--until)"));
        assert_eq!(Until::default().reason(&offers), None);
    }

    #[test]
    fn a_seeder_is_idle_from_the_start_on() {
        let offers = Offers::new();
        offers.receivers().record();
        let idle = |idle| Until { complete: None, idle: Some(idle) }.reason(&offers);
        assert_eq!(idle(Duration::from_secs(3_600)), None);
        assert_eq!(idle(Duration::ZERO).as_deref(), Some("no request for 0.0 s (--until-idle)"));
    }

    #[test]
    fn a_summary_is_due_after_a_change_and_at_intervals() {
        let (mut reports, start) = (Reports::new(), Instant::now());
        let view = |complete| DistributionView { complete, known: 5, rate: 2 << 20, ..Default::default() };
        let later = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(
            reports.summary(&view(1), start).as_deref(),
            Some("1 of 5 complete, 0 downloading, 2.0 MiB/s")
        );
        assert_eq!(reports.summary(&view(2), later(9)), None, "too early");
        assert!(reports.summary(&view(2), later(10)).is_some());
        assert_eq!(reports.summary(&view(2), later(60)), None, "no change");
    }
}
