//! Sensors that wait for a time. They know it, so they look exactly then, whatever their poke interval.

use std::time::Duration;

use chrono::{DateTime, Datelike as _, NaiveTime, TimeDelta, Utc, Weekday};
use chrono_tz::Tz;

use crate::dag::IsSensor;
use crate::operator::{Description, Operator, Poke, Result, TaskContext, TaskError};
use crate::template::{Renderer, Template as _, TemplateError};
use crate::time::{local_moment, parse_moment};

use super::sensor_parts;

fn when(moment: DateTime<Utc>, cx: &TaskContext) -> Poke {
    if cx.now() >= moment { Poke::Ready(()) } else { Poke::NotBefore(moment) }
}

fn plus(start: DateTime<Utc>, time: Duration) -> Result<DateTime<Utc>> {
    let time = TimeDelta::from_std(time).ok();
    time.and_then(|time| start.checked_add_signed(time))
        .ok_or_else(|| TaskError::fail("the moment to wait for lies beyond all calendars"))
}

/// Waits until a time of the day, in the zone of the dag, of the day on which the sensor started.
///
/// ```
/// use airflow_core::builtin::TimeSensor;
/// use airflow_core::dag::{DagDef, SensorExt};
/// use chrono::NaiveTime;
///
/// let dag = DagDef::new("d").timezone("Europe/Paris").define(|d| {
///     let six = NaiveTime::from_hms_opt(6, 0, 0).unwrap_or_default();
///     d.add(TimeSensor::at(six).deferred());
/// });
/// assert_eq!(dag.compile()?.tasks[0].id.as_str(), "time_sensor");
/// # Ok::<(), airflow_core::compile::DefinitionErrors>(())
/// ```
#[derive(Debug, Clone)]
pub struct TimeSensor {
    time: NaiveTime,
    zone: Option<Tz>,
}

impl TimeSensor {
    /// Waits until this time.
    pub fn at(time: NaiveTime) -> Self {
        Self { time, zone: None }
    }

    /// In another zone than that of the dag.
    #[must_use]
    pub fn timezone(mut self, zone: Tz) -> Self {
        self.zone = Some(zone);
        self
    }
}

impl Operator for TimeSensor {
    type Output = ();
    sensor_parts!("TimeSensor");

    fn default_id(&self) -> String {
        "time_sensor".to_owned()
    }

    fn describe(&self, _: &mut Description) {}

    async fn poke(&self, cx: &TaskContext) -> Result<Poke> {
        let zone = self.zone.unwrap_or_else(|| cx.timezone());
        let day = cx.waits_since().with_timezone(&zone).date_naive();
        Ok(when(local_moment(day.and_time(self.time), zone), cx))
    }
}

impl IsSensor for TimeSensor {}

/// Waits until a moment, which may be a template: `"{{ data_interval_end + macros.timedelta(hours=6) }}"`. Without an offset it
/// is local to the zone of the dag.
///
/// ```
/// use airflow_core::builtin::DateTimeSensor;
/// use airflow_core::dag::DagDef;
///
/// let dag = DagDef::new("d").define(|d| {
///     d.add(DateTimeSensor::until("{{ ds }}T18:30"));
/// });
/// assert_eq!(dag.compile()?.tasks[0].id.as_str(), "date_time_sensor");
/// # Ok::<(), airflow_core::compile::DefinitionErrors>(())
/// ```
#[derive(Debug, Clone)]
pub struct DateTimeSensor {
    moment: String,
}

impl DateTimeSensor {
    /// Waits until this moment.
    pub fn until(moment: impl Into<String>) -> Self {
        Self { moment: moment.into() }
    }
}

impl Operator for DateTimeSensor {
    type Output = ();
    sensor_parts!("DateTimeSensor");

    fn default_id(&self) -> String {
        "date_time_sensor".to_owned()
    }

    fn describe(&self, description: &mut Description) {
        description.template("target_time", &self.moment);
    }

    fn rendered(&self, renderer: &Renderer) -> Result<Option<Self>, TemplateError> {
        Ok(Some(Self { moment: self.moment.render(renderer)? }))
    }

    async fn poke(&self, cx: &TaskContext) -> Result<Poke> {
        let moment = parse_moment(&self.moment, cx.timezone()).map_err(TaskError::fail)?;
        Ok(when(moment, cx))
    }
}

impl IsSensor for DateTimeSensor {}

/// Waits until some time after the end of the data interval of its run.
#[derive(Debug, Clone, Copy)]
pub struct TimeDeltaSensor {
    delta: Duration,
}

impl TimeDeltaSensor {
    /// Waits until the end of the interval and this long.
    pub fn after_interval(delta: Duration) -> Self {
        Self { delta }
    }
}

impl Operator for TimeDeltaSensor {
    type Output = ();
    sensor_parts!("TimeDeltaSensor");

    fn default_id(&self) -> String {
        "time_delta_sensor".to_owned()
    }

    fn describe(&self, _: &mut Description) {}

    async fn poke(&self, cx: &TaskContext) -> Result<Poke> {
        Ok(when(plus(cx.interval().end, self.delta)?, cx))
    }
}

impl IsSensor for TimeDeltaSensor {}

/// Waits for some time from its own start.
#[derive(Debug, Clone, Copy)]
pub struct WaitSensor {
    time: Duration,
}

impl WaitSensor {
    /// Waits this long.
    pub fn of(time: Duration) -> Self {
        Self { time }
    }
}

impl Operator for WaitSensor {
    type Output = ();
    sensor_parts!("WaitSensor");

    fn default_id(&self) -> String {
        "wait_sensor".to_owned()
    }

    fn describe(&self, _: &mut Description) {}

    async fn poke(&self, cx: &TaskContext) -> Result<Poke> {
        Ok(when(plus(cx.waits_since(), self.time)?, cx))
    }
}

impl IsSensor for WaitSensor {}

/// Waits for a day of the week, in the zone of the dag.
#[derive(Debug, Clone)]
pub struct DayOfWeekSensor {
    days: Vec<Weekday>,
    of_logical_date: bool,
}

impl DayOfWeekSensor {
    /// Waits for one of these days.
    pub fn any(days: impl IntoIterator<Item = Weekday>) -> Self {
        Self { days: days.into_iter().collect(), of_logical_date: false }
    }

    /// Looks at the day of the logical date, which never changes, instead of today.
    #[must_use]
    pub fn use_logical_date(mut self) -> Self {
        self.of_logical_date = true;
        self
    }
}

impl Operator for DayOfWeekSensor {
    type Output = ();
    sensor_parts!("DayOfWeekSensor");

    fn default_id(&self) -> String {
        "day_of_week_sensor".to_owned()
    }

    fn describe(&self, _: &mut Description) {}

    async fn poke(&self, cx: &TaskContext) -> Result<Poke> {
        let moment = if self.of_logical_date { cx.logical_date() } else { cx.now() };
        Ok(Poke::when(self.days.contains(&moment.with_timezone(&cx.timezone()).weekday())))
    }
}

impl IsSensor for DayOfWeekSensor {}
