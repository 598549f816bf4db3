//! Which of very many messages are worth keeping: those around the moments that matter.

use super::Message;
use crate::history::Nanos;

/// Places of the messages that stay, in order, and how far they may be from a moment; `None` = all stay.
///
/// All that were under way within the reach stay and no others, so that the absence of a message there means that there was none. At most
/// `limit` stay; fewer if several are equally far.
pub(super) fn within(messages: &[Message], moments: &[Nanos], limit: usize) -> (Vec<usize>, Option<Nanos>) {
    if messages.len() <= limit {
        return ((0..messages.len()).collect(), None);
    }
    let far: Vec<_> = messages
        .iter()
        .map(|message| distance(message, moments))
        .collect();
    let mut sorted = far.clone();
    let (_, first_out, _) = sorted.select_nth_unstable(limit);
    let (first_out, reach) = (*first_out, first_out.saturating_sub(1));
    let stays = (0..far.len()).filter(|place| far[*place] < first_out).collect();
    (stays, Some(reach))
}

/// From the time that a message was under way to the nearest moment.
fn distance(message: &Message, moments: &[Nanos]) -> Nanos {
    let (from, to) = (message.sent, message.arrived.unwrap_or(message.sent));
    let after = moments.partition_point(|moment| *moment < from);
    let before = after.checked_sub(1).map_or(Nanos::MAX, |at| from - moments[at]);
    let next = moments.get(after).map_or(Nanos::MAX, |at| at.saturating_sub(to));
    before.min(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(sent: Nanos, arrived: Option<Nanos>) -> Message {
        Message {
            sent,
            arrived,
            from: 0,
            to: 1,
            kind: String::new(),
            bytes: 0,
            fate: String::new(),
        }
    }

    fn lost_at(times: &[Nanos]) -> Vec<Message> {
        times.iter().map(|time| message(*time, None)).collect()
    }

    #[test]
    fn few_messages_all_stay() {
        assert_eq!(within(&lost_at(&[1, 2, 3]), &[9], 3), (vec![0, 1, 2], None));
        assert_eq!(within(&[], &[9], 0), (vec![], None));
    }

    #[test]
    fn the_nearest_to_any_moment_stay() {
        let messages = lost_at(&[0, 8, 12, 40, 50, 53, 90]);
        assert_eq!(within(&messages, &[10, 50], 4), (vec![1, 2, 4, 5], Some(9)));
    }

    #[test]
    fn a_message_counts_while_it_is_under_way() {
        let messages = [message(0, Some(90)), message(30, Some(40)), message(60, None)];
        assert_eq!(within(&messages, &[50], 1).0, [0]);
        assert_eq!(distance(&messages[1], &[50]), 10);
        assert_eq!(distance(&messages[2], &[50]), 10);
    }

    #[test]
    fn what_is_equally_far_stays_or_goes_together() {
        let messages = lost_at(&[10, 11, 9, 12]);
        assert_eq!(within(&messages, &[10], 2), (vec![0], Some(0)));
        let messages = lost_at(&[10, 10, 10]);
        assert_eq!(within(&messages, &[10], 2), (vec![], Some(0)));
    }
}
