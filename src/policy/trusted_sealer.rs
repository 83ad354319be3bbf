//! Finds the sealer whose word for an author domain counts, if the operator trusts it.
//!
//! A forwarder that seals says in its ARC-Authentication-Results what the DMARC result was when the message reached it,
//! before it broke the signatures. Anyone can say so. It is believed only if that sealer and all that sealed after it
//! are trusted, since each of them could have put in what stands below (RFC 8617 §9).

use crate::domain::Domain;
use crate::evaluation::{ArcOutput, ArcResult, ArcSet, DmarcResult};

/// The newest set whose sealer found that DMARC passes for just this `author`, with trusted sealers from there up to
/// the top; none unless the chain validates. `trusted` are domains of seals (`d=`), each for itself, not for those
/// below it.
pub fn voucher<'a>(arc: &'a ArcOutput, trusted: &[Domain], author: &Domain) -> Option<&'a ArcSet> {
    if arc.result != ArcResult::Pass {
        return None;
    }
    word(&arc.sets, trusted, author)
}

/// Whether there would be a [`voucher`] had DNS given every key of the chain. For now its word can't be verified, so
/// nothing may be refused for the lack of it. Anyone can bring that about, so nothing may pass because of it.
pub fn may_be_vouched_for(arc: &ArcOutput, trusted: &[Domain], author: &Domain) -> bool {
    arc.result == ArcResult::TempError && word(&arc.unverified, trusted, author).is_some()
}

fn word<'a>(sets: &'a [ArcSet], trusted: &[Domain], author: &Domain) -> Option<&'a ArcSet> {
    let vouches = |set: &&ArcSet| {
        set.dmarc.as_ref().is_some_and(|found| found.result == DmarcResult::Pass && found.author_domain == *author)
    };
    sets.iter().rev().take_while(|set| trusted.contains(&set.sealer)).find(vouches)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::DmarcFinding;
    use crate::label::Label;

    fn domain(text: &str) -> Domain {
        Domain::parse(text).unwrap()
    }

    /// Sets from the first up: `sealer`, or `sealer:result:author`.
    fn chain(result: ArcResult, sets: &str) -> ArcOutput {
        let set = |(index, words): (usize, &str)| {
            let mut words = words.split(':');
            let sealer = domain(words.next().unwrap());
            let dmarc = words.next().map(|word| DmarcFinding {
                result: DmarcResult::parse(word).unwrap(),
                author_domain: domain(words.next().unwrap()),
            });
            ArcSet { instance: index + 1, sealer, dmarc }
        };
        let said = sets.split_whitespace().enumerate().map(set).collect();
        let (sets, unverified) = match result {
            ArcResult::TempError => (Vec::new(), said),
            _ => (said, Vec::new()),
        };
        ArcOutput { result, sets, unverified, reason: "", failure: None }
    }

    #[test]
    fn whose_word_counts() {
        let pass = ArcResult::Pass;
        let cases = [
            ("one sealer", pass, "t1.example:pass:a.example", Some(1)),
            ("case of the sealer", pass, "T1.Example:pass:a.example", Some(1)),
            ("two sealers", pass, "t1.example:pass:a.example t2.example:fail:a.example", Some(1)),
            ("both say so: the newest", pass, "t1.example:pass:a.example t2.example:pass:a.example", Some(2)),
            ("the second alone", pass, "x.example:pass:a.example t2.example:pass:a.example", Some(2)),
            ("silent sealers above", pass, "t1.example:pass:a.example t2.example t2.example", Some(1)),
            ("untrusted on top", pass, "t1.example:pass:a.example x.example:pass:a.example", None),
            ("untrusted in the middle", pass, "t1.example:pass:a.example x.example t2.example", None),
            ("untrusted below", pass, "x.example:pass:a.example t1.example t2.example", None),
            ("nobody trusted", pass, "x.example:pass:a.example", None),
            ("below a trusted domain", pass, "m.t1.example:pass:a.example", None),
            ("above a trusted domain", pass, "example:pass:a.example", None),
            ("another author", pass, "t1.example:pass:b.example", None),
            ("a subdomain of the author", pass, "t1.example:pass:m.a.example", None),
            ("the author's organization", pass, "t1.example:pass:example", None),
            ("fail", pass, "t1.example:fail:a.example", None),
            ("none", pass, "t1.example:none:a.example", None),
            ("temperror", pass, "t1.example:temperror:a.example", None),
            ("no evidence", pass, "t1.example", None),
            ("no chain", ArcResult::None, "", None),
            ("chain fails", ArcResult::Fail, "t1.example:pass:a.example", None),
            ("chain in doubt", ArcResult::TempError, "t1.example:pass:a.example", None),
        ];
        let trusted = [domain("t1.example"), domain("t2.example")];
        for (name, result, sets, expected) in cases {
            let arc = chain(result, sets);
            let found = voucher(&arc, &trusted, &domain("a.example"));
            assert_eq!(found.map(|set| set.instance), expected, "{name}");
            assert_eq!(voucher(&arc, &[], &domain("a.example")), None, "{name}, nobody trusted");
            assert_eq!(may_be_vouched_for(&arc, &trusted, &domain("a.example")), name == "chain in doubt", "{name}");
            if result == pass {
                let doubt = chain(ArcResult::TempError, sets);
                assert_eq!(voucher(&doubt, &trusted, &domain("a.example")), None, "{name}, in doubt");
                let may_be = may_be_vouched_for(&doubt, &trusted, &domain("a.example"));
                assert_eq!(may_be, expected.is_some(), "{name}, in doubt");
            }
        }
    }
}
