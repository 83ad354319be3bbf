//! The jobs of reporting: one report to one destination each, shared by all gates on one database.
//!
//! Any gate plans them, and planning twice changes nothing. A gate that takes a job up holds it by a lease: one
//! conditional statement that only one rival can win. Only the holder settles a job. A gate that dies leaves its lease
//! to run out, and another goes on; so does a clock that is wrong by less than [`CLOCK_TOLERANCE`]. Addresses that get
//! no reports for a while are kept beside the jobs.

use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};

use crate::calendar::SECONDS_PER_DAY;
use crate::dmarc::public_suffix::List;
use crate::dmarc::report_uri::ReportUri;
use crate::domain::Domain;
use crate::label::Label;
use crate::label_enum;
use crate::record::{Counted, PolicyPublished};
use crate::store::row::{self, Part, TEXT_COLUMNS};
use crate::store::{Error, Location, database};

label_enum! {
    /// What has become of a job.
    pub enum JobState {
        /// It waits for its time.
        Due = "due",
        /// A gate is at it.
        Claimed = "claimed",
        /// The relay has taken the report.
        Sent = "sent",
        /// It was given up.
        Failed = "failed",
        /// Its destination has refused reports lately.
        Suppressed = "suppressed",
        /// There was no report to send.
        Skipped = "skipped",
    }
}

/// A job as it is planned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewJob {
    /// Its name: the same on every gate.
    pub id: String,
    /// The name that earlier versions gave it; one of the store may have either. Of one that was read, `id`.
    pub former_id: String,
    /// The report's, which goes to every destination under this name.
    pub report_id: String,
    /// The policy domain.
    pub policy_domain: String,
    /// Which of the policies that the domain published in the period.
    pub configuration: String,
    /// The first second of the period, since the epoch.
    pub begin: i64,
    /// Its last second.
    pub end: i64,
    /// The URI that the policy record names.
    pub destination: String,
    /// When it is tried first, in seconds since the epoch.
    pub due: i64,
    /// When it is given up.
    pub deadline: i64,
}

/// What a job is planned for: each kind has a share of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// What records ask for.
    First,
    /// What takes the place of a job whose destination names another address: as much again, since that job keeps its
    /// own. Bounded, since a destination that answers with new addresses each time would create jobs without end.
    Replacing,
}

/// How many jobs there may be. A sender may own domains with any number of subdomains and addresses, each with a
/// record: bounds apply to organizations by the list, whose names have to be registered.
#[derive(Debug, Clone, Copy)]
pub struct Shares<'a> {
    /// What tells organizations apart.
    pub suffixes: &'a List,
    /// Which jobs these are; those of the other kind do not count.
    pub room: Room,
    /// Jobs on the policy domains of one organization, of one UTC day. One of a part of the day is such a part of a job.
    pub of_organization: i64,
}

/// Who is about to get a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reservation<'a> {
    /// The job.
    pub id: &'a str,
    /// Whose it is.
    pub holder: &'a str,
    /// The address.
    pub address: &'a str,
    /// From when on reports to the address count, in seconds since the epoch.
    pub since: i64,
}

/// Reports that went out, or are about to, beside the one that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// To the same address, since a time.
    pub to_address: i64,
    /// On the same UTC day, to all addresses of the organization that the job's destination is in.
    pub to_organization: i64,
}

/// What came of planning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Planned {
    /// Jobs that were not there yet.
    pub new: u64,
    /// Jobs that were left out since an organization has had its share.
    pub left_out: u64,
}

/// A job as the store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// As it was planned; `due` is when it is tried next, or when it ended.
    pub planned: NewJob,
    /// What has become of it.
    pub state: JobState,
    /// How often it was taken up.
    pub attempts: i64,
    /// How often the end of the message was sent without a reply: it may have been delivered as often.
    pub unanswered: i64,
    /// Who has it; empty if nobody.
    pub holder: String,
    /// Until when, in seconds since the epoch.
    pub lease: i64,
    /// When anything about it last changed.
    pub changed: i64,
    /// The address that the report went to; empty if it went nowhere yet.
    pub recipient: String,
    /// Why it stands as it does, in words.
    pub note: String,
    /// Messages that the report covers; 0 until it is made.
    pub messages: i64,
    /// The message as it is sent, once it has been on its way: a further attempt sends the very same one.
    pub message: Vec<u8>,
}

/// Who wants a job, and until when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim<'a> {
    /// A name unique to this process.
    pub holder: &'a str,
    /// Now, in seconds since the epoch.
    pub now: i64,
    /// How long it is held, in seconds.
    pub lease: i64,
    /// How many jobs all gates together may take up within a minute.
    pub rate: i64,
}

/// A report that is about to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Departure<'a> {
    /// Whose it is.
    pub holder: &'a str,
    /// Until when the reply is there for certain, in seconds since the epoch.
    pub lease: i64,
    /// Where to.
    pub recipient: &'a str,
    /// Messages that it covers.
    pub messages: i64,
    /// What is sent.
    pub message: &'a [u8],
}

/// How a job goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settlement<'a> {
    /// Who held it.
    pub holder: &'a str,
    /// Now, in seconds since the epoch.
    pub now: i64,
    /// The new state.
    pub state: JobState,
    /// When it is tried again.
    pub due: i64,
    /// Ends of data of this attempt that got their reply after all.
    pub answered: i64,
    /// Whether the attempt counts for the rate: one that sent nothing makes room for another.
    pub effort: Effort,
    /// Why, in words.
    pub note: &'a str,
}

/// What an attempt cost others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// The relay or DNS was asked.
    Spent,
    /// It came to nothing by what was known here.
    Spared,
}

/// Which jobs are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Those whose period ended at this time or later.
    pub since: i64,
    /// At most so many, the latest first.
    pub limit: i64,
}

/// An address that gets no reports for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suppression {
    /// The address, lower case.
    pub address: String,
    /// How often it came to this.
    pub strikes: i64,
    /// When it last did, in seconds since the epoch.
    pub since: i64,
    /// Until when.
    pub until: i64,
    /// What it said.
    pub reason: String,
}

/// Where a page of rows ends and the next one goes on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PageCursor(Vec<u8>);

/// The jobs, for the tasks that work on them: one connection that writes.
pub struct Jobs {
    connection: AnyConnection,
}

impl Jobs {
    /// Opens the database, makes it if it isn't there, and brings its schema up to date.
    ///
    /// # Errors
    ///
    /// The operator's: see [`Error`].
    pub async fn open(location: &Location) -> Result<Self, Error> {
        Ok(Self { connection: database::open(location).await? })
    }

    /// Opens the database for looking alone.
    ///
    /// # Errors
    ///
    /// See [`Error`]; there is no database before the gate's first start.
    pub async fn open_read_only(location: &Location) -> Result<Self, Error> {
        Ok(Self { connection: database::open_read_only(location).await? })
    }

    /// How far the clock of this host, which says `now`, is ahead of that of the database, in seconds: what one gate takes
    /// for the end of the day must not be that of all.
    ///
    /// # Errors
    ///
    /// The database's.
    pub async fn ahead(&mut self, now: impl FnOnce() -> i64) -> Result<i64, Error> {
        let now = now();
        let shared = database::clock(&mut self.connection).await?;
        let shared = shared.map(|shared| i64::try_from(shared.as_secs()).unwrap_or(i64::MAX));
        Ok(shared.map_or(0, |shared| now.saturating_sub(shared).max(0)))
    }

    /// Puts jobs in that are not there yet, as far as the shares of their organizations go. Gates that plan at the same
    /// time may exceed a share by what each of them puts in.
    ///
    /// # Errors
    ///
    /// The database's; none of the jobs is there then that was not before.
    pub async fn plan(&mut self, jobs: &[NewJob], shares: &Shares<'_>, now: i64) -> Result<Planned, Error> {
        // In the order of the ids, as every gate does it, so that two can't wait for each other.
        let mut sorted: Vec<_> = jobs.iter().collect();
        sorted.sort_by(|a, b| a.id.cmp(&b.id));
        let mut transaction = database::begin(&mut self.connection).await?;
        let mut planned = Planned::default();
        for job in sorted {
            let is_there = sqlx::query_scalar(IS_THERE).bind(&*job.id).bind(&*job.former_id);
            let is_there: i64 = is_there.fetch_one(&mut *transaction).await?;
            if is_there > 0 {
                continue;
            }
            let organizations = shares.organizations(job);
            let [owner, destination] = organizations.each_ref().map(|name| shares.room.marked(name));
            let other = shares.room.other().marked(&organizations[0]);
            let midnight = job.begin - job.begin.rem_euclid(SECONDS_PER_DAY);
            let query = sqlx::query(PLAN)
                .bind(&*job.id)
                .bind(&*job.report_id)
                .bind(&*job.policy_domain)
                .bind(&*job.configuration)
                .bind(job.begin)
                .bind(job.end)
                .bind(&*job.destination)
                .bind(job.due)
                .bind(job.deadline)
                .bind(now)
                .bind(&[][..] as &[u8])
                .bind(&*owner)
                .bind(&*destination)
                .bind(midnight)
                .bind(midnight + SECONDS_PER_DAY - 1)
                .bind(shares.of_organization.saturating_mul(SECONDS_PER_DAY))
                .bind(&*other);
            match query.execute(&mut *transaction).await?.rows_affected() {
                0 => planned.left_out += 1,
                new => planned.new += new,
            }
        }
        transaction.commit().await?;
        Ok(planned)
    }

    /// The policy domains of the rows of a UTC day, in their order, behind `after`; a page of them.
    ///
    /// # Errors
    ///
    /// The database's.
    pub async fn policy_domains(&mut self, day: i64, after: &str) -> Result<Vec<String>, Error> {
        let query = sqlx::query(DOMAINS).bind(day).bind(after).bind(DOMAINS_AT_ONCE);
        let rows = query.fetch_all(&mut self.connection).await?;
        Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
    }

    /// The policies that a domain published on a UTC day, as its rows have them, each with every part of the day that
    /// rows are of; at most 500.
    ///
    /// # Errors
    ///
    /// The database's.
    pub async fn policies(&mut self, day: i64, policy_domain: &str) -> Result<Vec<(PolicyPublished, Part)>, Error> {
        let rows = sqlx::query(POLICIES).bind(day).bind(policy_domain).fetch_all(&mut self.connection).await?;
        let policy = |row: &AnyRow| {
            let part = Part { begin_hour: row.try_get(11)?, hours: row.try_get(12)? };
            Ok(row::policy(texts(row, 0)?)?.map(|policy| (policy, part)))
        };
        let policies = rows.iter().map(policy).collect::<Result<Vec<_>, sqlx::Error>>()?;
        Ok(policies.into_iter().flatten().collect())
    }

    /// A page of the rows of a policy domain on a UTC day, or of one part of it alone, and where the next page begins;
    /// none behind the last.
    ///
    /// # Errors
    ///
    /// The database's, or a row that this version can't read.
    pub async fn rows(
        &mut self,
        day: i64,
        part: Option<Part>,
        policy_domain: &str,
        cursor: &PageCursor,
    ) -> Result<(Vec<Counted>, Option<PageCursor>), Error> {
        let (hours, lengths) =
            part.map_or((0..=23, 1..=24), |part| (part.begin_hour..=part.begin_hour, part.hours..=part.hours));
        let query = sqlx::query(ROWS).bind(day).bind(policy_domain).bind(&*cursor.0).bind(ROWS_AT_ONCE);
        let query = query.bind(*hours.start()).bind(*hours.end()).bind(*lengths.start()).bind(*lengths.end());
        let rows = query.fetch_all(&mut self.connection).await?;
        let counted = |row: &AnyRow| row::counted(row.try_get(1)?, row.try_get(2)?, texts::<TEXT_COLUMNS>(row, 3)?);
        let page = rows.iter().map(counted).collect::<Result<Vec<_>, sqlx::Error>>()?;
        let is_full = i64::try_from(page.len()).is_ok_and(|rows| rows >= ROWS_AT_ONCE);
        let next = rows.last().filter(|_| is_full).map(|row| row.try_get(0)).transpose()?;
        Ok((page, next.map(PageCursor)))
    }

    /// Takes up a job whose time has come, or whose holder's lease has run out; none if there is none, or the rate is
    /// used up.
    ///
    /// # Errors
    ///
    /// The database's.
    pub async fn claim(&mut self, claim: &Claim<'_>) -> Result<Option<Job>, Error> {
        for _ in 0..RIVALRIES {
            let recent: i64 = {
                let query = sqlx::query(RECENT).bind(claim.now - 60);
                query.fetch_one(&mut self.connection).await?.try_get(0)?
            };
            if recent >= claim.rate {
                return Ok(None);
            }
            let query = sqlx::query(CLAIM)
                .bind(claim.holder)
                .bind(claim.now + claim.lease)
                .bind(claim.now)
                .bind(claim.now - CLOCK_TOLERANCE);
            if let Some(row) = query.fetch_optional(&mut self.connection).await? {
                return Ok(Some(read(&row)?));
            }
            if self.waiting(claim.now).await? == 0 {
                return Ok(None);
            }
            // Rivals were faster, with this one.
        }
        Ok(None)
    }

    /// How many jobs could be taken up at `now`.
    ///
    /// # Errors
    ///
    /// The database's.
    pub async fn waiting(&mut self, now: i64) -> Result<i64, Error> {
        let query = sqlx::query(OPEN).bind(now).bind(now - CLOCK_TOLERANCE);
        Ok(query.fetch_one(&mut self.connection).await?.try_get(0)?)
    }

    /// How many jobs are unfinished, whenever they are due.
    ///
    /// # Errors
    ///
    /// The database's.
    pub async fn unfinished(&mut self) -> Result<i64, Error> {
        Ok(sqlx::query(UNFINISHED).fetch_one(&mut self.connection).await?.try_get(0)?)
    }

    /// Lets every job that waits for another attempt or for its time be due now, and says how many.
    ///
    /// # Errors
    ///
    /// The database's.
    pub async fn hasten(&mut self, now: i64) -> Result<u64, Error> {
        Ok(sqlx::query(HASTEN).bind(now).execute(&mut self.connection).await?.rows_affected())
    }

    /// Notes, before the end of the message is sent, what is sent to whom, that it may have arrived from here on, and a
    /// lease that is long enough for the reply. False if the job is not the holder's any more: then nothing may be
    /// sent.
    ///
    /// # Errors
    ///
    /// The database's; nothing may be sent.
    pub async fn depart(&mut self, id: &str, departure: &Departure<'_>) -> Result<bool, Error> {
        let query = sqlx::query(DEPART)
            .bind(id)
            .bind(departure.holder)
            .bind(departure.lease)
            .bind(departure.recipient)
            .bind(departure.messages)
            .bind(departure.message);
        Ok(query.execute(&mut self.connection).await?.rows_affected() == 1)
    }

    /// Settles how a job goes on. False if it is not the holder's any more: then another gate decides.
    ///
    /// # Errors
    ///
    /// The database's.
    pub async fn settle(&mut self, id: &str, settlement: &Settlement<'_>) -> Result<bool, Error> {
        let query = sqlx::query(SETTLE)
            .bind(id)
            .bind(settlement.holder)
            .bind(settlement.state.as_str())
            .bind(settlement.due)
            .bind(settlement.answered)
            .bind(settlement.note)
            .bind(settlement.now)
            .bind(&[][..] as &[u8])
            .bind(match settlement.effort {
                Effort::Spent => 1_i64,
                Effort::Spared => 0,
            });
        Ok(query.execute(&mut self.connection).await?.rows_affected() == 1)
    }

    /// How many other reports went, or are about to go, to the address and organization that a job is for.
    ///
    /// # Errors
    ///
    /// The database's, or there is no such job.
    pub async fn sent(&mut self, to: &Reservation<'_>) -> Result<Sent, Error> {
        let row = sqlx::query(SENT).bind(to.id).bind(to.address).bind(to.since).fetch_one(&mut self.connection).await?;
        Ok(Sent { to_address: row.try_get(0)?, to_organization: row.try_get(1)? })
    }

    /// Notes where a job's report is about to go, and says how many others went or are about to go there; none if the
    /// job is not the holder's any more. Since each notes before it counts, no two can both overlook the other: at worst
    /// both wait.
    ///
    /// # Errors
    ///
    /// The database's.
    pub async fn reserve(&mut self, to: &Reservation<'_>) -> Result<Option<Sent>, Error> {
        let query = sqlx::query(RESERVE).bind(to.id).bind(to.holder).bind(to.address);
        match query.execute(&mut self.connection).await?.rows_affected() {
            0 => Ok(None),
            _ => Ok(Some(self.sent(to).await?)),
        }
    }

    /// The jobs that are asked for, those of the latest period first, without their messages.
    ///
    /// # Errors
    ///
    /// The database's.
    pub async fn list(&mut self, selection: &Selection) -> Result<Vec<Job>, Error> {
        let query = sqlx::query(LIST).bind(selection.since).bind(selection.limit).bind(&[][..] as &[u8]);
        let rows = query.fetch_all(&mut self.connection).await?;
        Ok(rows.iter().map(read).collect::<Result<_, _>>()?)
    }

    /// The jobs whose own id or whose report's id begins with `prefix`; at most a hundred.
    ///
    /// # Errors
    ///
    /// The database's.
    pub async fn find(&mut self, prefix: &str) -> Result<Vec<Job>, Error> {
        // Ids are of hexadecimal digits: nothing else is found, and no pattern can be made of them.
        if prefix.is_empty() || !prefix.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Ok(Vec::new());
        }
        let pattern = format!("{}%", prefix.to_ascii_lowercase());
        let rows = sqlx::query(FIND).bind(pattern).fetch_all(&mut self.connection).await?;
        Ok(rows.iter().map(read).collect::<Result<_, _>>()?)
    }

    /// The secret of this name, which is `fresh` if there was none.
    ///
    /// # Errors
    ///
    /// The database's.
    pub async fn secret(&mut self, name: &str, fresh: &[u8]) -> Result<Vec<u8>, Error> {
        sqlx::query(INSERT_SECRET).bind(name).bind(fresh).execute(&mut self.connection).await?;
        Ok(sqlx::query(SELECT_SECRET).bind(name).fetch_one(&mut self.connection).await?.try_get(0)?)
    }

    /// Notes to whom a failure report goes, so that its bounce has an address on every gate.
    ///
    /// # Errors
    ///
    /// The database's; its bounce would be of no use.
    pub async fn note_failure_report(&mut self, id: &str, address: &str, now: i64) -> Result<(), Error> {
        sqlx::query(INSERT_FAILURE_REPORT).bind(id).bind(address).bind(now).execute(&mut self.connection).await?;
        Ok(())
    }

    /// The address that the failure report of this id went to; none if there is no such report any more.
    ///
    /// # Errors
    ///
    /// The database's.
    pub async fn failure_report(&mut self, id: &str) -> Result<Option<String>, Error> {
        let row = sqlx::query(SELECT_FAILURE_REPORT).bind(id).fetch_optional(&mut self.connection).await?;
        Ok(row.map(|row| row.try_get(0)).transpose()?)
    }

    /// Forgets failure reports that left before `before`, and of the others the oldest beyond [`MAX_FAILURE_REPORTS`];
    /// a bounded number at a time.
    ///
    /// # Errors
    ///
    /// The database's.
    pub async fn forget_failure_reports(&mut self, before: i64) -> Result<u64, Error> {
        self.forget_failure_reports_beyond(before, MAX_FAILURE_REPORTS).await
    }

    async fn forget_failure_reports_beyond(&mut self, before: i64, most: i64) -> Result<u64, Error> {
        let old = sqlx::query(DELETE_OLD_FAILURE_REPORTS).bind(before).bind(PRUNED_AT_ONCE);
        let old = old.execute(&mut self.connection).await?.rows_affected();
        let beyond = sqlx::query(DELETE_FAILURE_REPORTS_BEYOND).bind(PRUNED_AT_ONCE).bind(most);
        Ok(old + beyond.execute(&mut self.connection).await?.rows_affected())
    }

    /// Deletes jobs that ended and whose period ended before `before`, a bounded number at a time.
    ///
    /// # Errors
    ///
    /// The database's.
    pub async fn prune(&mut self, before: i64) -> Result<u64, Error> {
        Ok(sqlx::query(PRUNE).bind(before).bind(PRUNED_AT_ONCE).execute(&mut self.connection).await?.rows_affected())
    }

    /// Suppresses reports to `address` for a while, longer each time: a week, a month, a quarter, a year. While it is
    /// suppressed already nothing changes, since one cause makes many bounces.
    ///
    /// # Errors
    ///
    /// The database's.
    pub async fn suppress(&mut self, address: &str, now: i64, reason: &str) -> Result<(), Error> {
        let [week, month, quarter, year] = PAUSES;
        let query = sqlx::query(SUPPRESS)
            .bind(address.to_ascii_lowercase())
            .bind(now)
            .bind(now + week)
            .bind(now + month)
            .bind(now + quarter)
            .bind(now + year)
            .bind(reason);
        query.execute(&mut self.connection).await?;
        Ok(())
    }

    /// The suppression of `address` that holds at `now`.
    ///
    /// # Errors
    ///
    /// The database's.
    pub async fn suppression(&mut self, address: &str, now: i64) -> Result<Option<Suppression>, Error> {
        let query = sqlx::query(SUPPRESSION).bind(address.to_ascii_lowercase()).bind(now);
        let row = query.fetch_optional(&mut self.connection).await?;
        Ok(row.as_ref().map(read_suppression).transpose()?)
    }

    /// All suppressions, past ones too, by address.
    ///
    /// # Errors
    ///
    /// The database's.
    pub async fn suppressions(&mut self) -> Result<Vec<Suppression>, Error> {
        let rows = sqlx::query(SUPPRESSIONS).fetch_all(&mut self.connection).await?;
        Ok(rows.iter().map(read_suppression).collect::<Result<_, _>>()?)
    }

    /// Forgets that `address` ever refused reports; false if it is not known.
    ///
    /// # Errors
    ///
    /// The database's.
    pub async fn forgive(&mut self, address: &str) -> Result<bool, Error> {
        let query = sqlx::query(FORGIVE).bind(address.to_ascii_lowercase());
        Ok(query.execute(&mut self.connection).await?.rows_affected() > 0)
    }
}

impl Shares<'_> {
    /// Who owns the policy domain, and who the destination; what can't be read stands for itself.
    fn organizations(&self, job: &NewJob) -> [String; 2] {
        let organization = |domain: &Domain| self.suffixes.organizational_domain(domain).to_string();
        let owner = Domain::parse(&job.policy_domain).ok();
        let host = ReportUri::parse(&job.destination).and_then(|uri| uri.mail_host());
        [
            owner.as_ref().map_or_else(|| job.policy_domain.clone(), organization),
            host.as_ref().map_or_else(|| job.destination.clone(), organization),
        ]
    }
}

impl Room {
    /// The name under which the jobs of an organization are counted: each kind has one that the other can't have.
    fn marked(self, organization: &str) -> String {
        match self {
            Self::First => organization.to_owned(),
            Self::Replacing => format!("{REPLACING}{organization}"),
        }
    }

    fn other(self) -> Self {
        match self {
            Self::First => Self::Replacing,
            Self::Replacing => Self::First,
        }
    }
}

/// The text columns from `first` on.
fn texts<const N: usize>(row: &AnyRow, first: usize) -> Result<[String; N], sqlx::Error> {
    let mut texts = [const { String::new() }; N];
    for (text, column) in texts.iter_mut().zip(first..) {
        *text = row.try_get(column)?;
    }
    Ok(texts)
}

fn read(row: &AnyRow) -> Result<Job, sqlx::Error> {
    let state = JobState::parse(row.try_get(9)?);
    Ok(Job {
        planned: NewJob {
            id: row.try_get(0)?,
            former_id: row.try_get(0)?,
            report_id: row.try_get(1)?,
            policy_domain: row.try_get(2)?,
            configuration: row.try_get(3)?,
            begin: row.try_get(4)?,
            end: row.try_get(5)?,
            destination: row.try_get(6)?,
            due: row.try_get(7)?,
            deadline: row.try_get(8)?,
        },
        state: state.ok_or_else(|| sqlx::Error::Decode("not the state of a job".into()))?,
        attempts: row.try_get(10)?,
        unanswered: row.try_get(11)?,
        holder: row.try_get(12)?,
        lease: row.try_get(13)?,
        changed: row.try_get(14)?,
        recipient: row.try_get(15)?,
        note: row.try_get(16)?,
        messages: row.try_get(17)?,
        message: row.try_get(18)?,
    })
}

fn read_suppression(row: &AnyRow) -> Result<Suppression, sqlx::Error> {
    Ok(Suppression {
        address: row.try_get(0)?,
        strikes: row.try_get(1)?,
        since: row.try_get(2)?,
        until: row.try_get(3)?,
        reason: row.try_get(4)?,
    })
}

/// Columns in the order in which they are read; `$message` stands for the last.
macro_rules! columns {
    ($message:literal) => {
        concat!(
            "id, report_id, policy_domain, configuration, period_begin, period_end, destination, due, deadline, state, ",
            "attempts, unanswered, holder, lease, changed, recipient, note, messages, ",
            $message
        )
    };
}

const DOMAINS: &str = "SELECT DISTINCT policy_domain FROM report_rows WHERE day = $1 AND policy_domain > $2
    ORDER BY policy_domain LIMIT $3";

/// `requested` is of a message, not of the policy: any will do.
const POLICIES: &str = "SELECT policy_domain, discovery, policy_record, adkim, aspf, p, sp, np, fo, testing,
        MIN(requested), begin_hour, hours
    FROM report_rows WHERE day = $1 AND policy_domain = $2
    GROUP BY policy_domain, discovery, policy_record, adkim, aspf, p, sp, np, fo, testing, begin_hour, hours
    ORDER BY policy_record, begin_hour, hours LIMIT 500";

const ROWS: &str = "SELECT row_key, n, first_seen,
        source_ip, policy_domain, discovery, policy_record, adkim, aspf, p, sp, np, fo, testing, requested,
        disposition, dkim_aligned, spf_aligned, reasons, header_from, envelope_from, envelope_to,
        dkim_results, spf_domain, spf_scope, spf_result, reply
    FROM report_rows WHERE day = $1 AND policy_domain = $2 AND row_key > $3
        AND begin_hour BETWEEN $5 AND $6 AND hours BETWEEN $7 AND $8
    ORDER BY row_key LIMIT $4";

/// A share is counted by itself, but turns go on over both, so that nobody has two jobs of one turn.
const PLAN: &str = "INSERT INTO report_jobs (
    id, report_id, policy_domain, configuration, period_begin, period_end, destination, due, deadline, state,
    attempts, unanswered, holder, lease, claimed, changed, recipient, note, messages, message,
    organization, destination_organization, turn
) SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, 'due', 0, 0, '', 0, 0, $10, '', '', 0, $11, $12, $13, owners.jobs + others.jobs
FROM (
    SELECT CAST(COUNT(*) AS BIGINT) AS jobs, CAST(COALESCE(SUM(period_end - period_begin + 1), 0) AS BIGINT) AS seconds
    FROM report_jobs WHERE organization = $12 AND period_begin BETWEEN $14 AND $15
) AS owners, (
    SELECT CAST(COUNT(*) AS BIGINT) AS jobs FROM report_jobs
    WHERE organization = $17 AND period_begin BETWEEN $14 AND $15
) AS others
WHERE owners.seconds < $16 ON CONFLICT (id) DO NOTHING";

const IS_THERE: &str = "SELECT CAST(COUNT(*) AS BIGINT) FROM report_jobs WHERE id = $1 OR id = $2";

/// First what a dead gate has left, which may be on its way; then by turns, so that a domain with one report does not
/// wait behind one with hundreds. Each is the first entry of an index, however many jobs wait: one condition for both
/// would have all of them read and sorted for each that is taken up. The plus sign keeps SQLite from the index by
/// `due`, which has another order.
///
/// The conditions stand outside as well: under READ COMMITTED a rival that waited for the row looks at them again.
const CLAIM: &str = concat!(
    "UPDATE report_jobs SET state = 'claimed', holder = $1, lease = $2, claimed = $3, changed = $3,
        attempts = attempts + 1
    WHERE id = COALESCE(
        (SELECT id FROM report_jobs WHERE state = 'claimed' AND lease < $4 ORDER BY due LIMIT 1),
        (SELECT id FROM report_jobs WHERE state = 'due' AND +due <= $3 ORDER BY turn, due LIMIT 1)
    ) AND ((state = 'due' AND due <= $3) OR (state = 'claimed' AND lease < $4)) RETURNING ",
    columns!("message")
);

const OPEN: &str = "SELECT CAST(COUNT(*) AS BIGINT) FROM report_jobs
    WHERE (state = 'due' AND due <= $1) OR (state = 'claimed' AND lease < $2)";

const UNFINISHED: &str = "SELECT CAST(COUNT(*) AS BIGINT) FROM report_jobs WHERE state = 'due' OR state = 'claimed'";

const RECENT: &str = "SELECT CAST(COUNT(*) AS BIGINT) FROM report_jobs WHERE claimed > $1";

const HASTEN: &str = "UPDATE report_jobs SET due = $1 WHERE state = 'due' AND due > $1";

const DEPART: &str = "UPDATE report_jobs SET lease = $3, recipient = $4, messages = $5, message = $6,
        unanswered = unanswered + 1
    WHERE id = $1 AND holder = $2 AND state = 'claimed'";

/// The message is kept as long as it may be sent again. An address that nothing departed to is only reserved.
const SETTLE: &str = "UPDATE report_jobs SET state = $3, due = $4, unanswered = unanswered - $5, note = $6,
        changed = $7, holder = '', lease = 0, claimed = claimed * $9,
        recipient = CASE WHEN messages = 0 THEN '' ELSE recipient END, message = CASE WHEN $3 = 'due' THEN message ELSE $8 END
    WHERE id = $1 AND holder = $2 AND state = 'claimed'";

const RESERVE: &str = "UPDATE report_jobs SET recipient = $3 WHERE id = $1 AND holder = $2 AND state = 'claimed'";

/// One that is claimed and has a recipient is on its way; it was changed when it was claimed. Jobs of the first version have no organizations.
const SENT: &str = "SELECT (
        SELECT CAST(COUNT(*) AS BIGINT) FROM report_jobs
        WHERE recipient = $2 AND id <> $1 AND state IN ('claimed', 'sent') AND changed >= $3
    ), (
        SELECT CAST(COUNT(*) AS BIGINT) FROM report_jobs
        WHERE destination_organization = own.destination_organization AND destination_organization <> '' AND id <> $1
            AND period_begin BETWEEN own.period_begin - own.period_begin % 86400
                AND own.period_begin - own.period_begin % 86400 + 86399
            AND recipient <> '' AND state IN ('claimed', 'sent')
    ) FROM report_jobs AS own WHERE id = $1";

const LIST: &str = concat!(
    "SELECT ",
    columns!("$3"),
    " FROM report_jobs WHERE period_end >= $1 ORDER BY period_begin DESC, policy_domain, destination, id LIMIT $2"
);

const FIND: &str = concat!(
    "SELECT ",
    columns!("message"),
    " FROM report_jobs WHERE id LIKE $1 OR report_id LIKE $1 ORDER BY period_begin, id LIMIT 100"
);

const PRUNE: &str = "DELETE FROM report_jobs WHERE id IN (
    SELECT id FROM report_jobs WHERE period_end < $1 AND state NOT IN ('due', 'claimed') ORDER BY period_end LIMIT $2)";

const INSERT_SECRET: &str = "INSERT INTO report_secrets (name, secret) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING";

const SELECT_SECRET: &str = "SELECT secret FROM report_secrets WHERE name = $1";

const INSERT_FAILURE_REPORT: &str =
    "INSERT INTO failure_reports (id, address, sent) VALUES ($1, $2, $3) ON CONFLICT (id) DO NOTHING";

const SELECT_FAILURE_REPORT: &str = "SELECT address FROM failure_reports WHERE id = $1";

const DELETE_OLD_FAILURE_REPORTS: &str = "DELETE FROM failure_reports WHERE id IN
    (SELECT id FROM failure_reports WHERE sent < $1 ORDER BY sent LIMIT $2)";

const DELETE_FAILURE_REPORTS_BEYOND: &str = "DELETE FROM failure_reports WHERE id IN
    (SELECT id FROM failure_reports ORDER BY sent DESC, id LIMIT $1 OFFSET $2)";

const SUPPRESS: &str = "INSERT INTO report_suppressions AS t (address, strikes, since, until, reason)
    VALUES ($1, 1, $2, $3, $7) ON CONFLICT (address) DO UPDATE SET
        strikes = t.strikes + 1, since = excluded.since, reason = excluded.reason,
        until = CASE WHEN t.strikes = 1 THEN $4 WHEN t.strikes = 2 THEN $5 ELSE $6 END
    WHERE t.until <= $2";

const SUPPRESSION: &str =
    "SELECT address, strikes, since, until, reason FROM report_suppressions WHERE address = $1 AND until > $2";

const SUPPRESSIONS: &str = "SELECT address, strikes, since, until, reason FROM report_suppressions ORDER BY address";

const FORGIVE: &str = "DELETE FROM report_suppressions WHERE address = $1";

/// No domain or URI has a space.
const REPLACING: &str = "replacing ";
/// Seconds by which the clocks of gates may differ before one takes another's job away.
pub const CLOCK_TOLERANCE: i64 = 5 * 60;
/// Seconds without reports after the first, the second, the third and each further refusal.
const PAUSES: [i64; 4] = [7 * 86_400, 30 * 86_400, 90 * 86_400, 365 * 86_400];
/// How often a gate asks for a job while rivals are faster; after that it waits for its next turn.
const RIVALRIES: usize = 32;
/// Policy domains of a page.
const DOMAINS_AT_ONCE: i64 = 500;
/// Rows of a page: some megabytes.
const ROWS_AT_ONCE: i64 = 1000;
/// Failure reports whose bounces find an address: some ten megabytes.
pub const MAX_FAILURE_REPORTS: i64 = 200_000;
/// Jobs or failure reports that one pruning deletes at most: some ten milliseconds.
const PRUNED_AT_ONCE: i64 = 5000;

#[cfg(test)]
mod tests;
