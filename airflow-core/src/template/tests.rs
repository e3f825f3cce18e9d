//! Claims about the renderer as a whole: its bounds, its errors, its lookups, and the types of fields.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::{
    Lookups, NoLookups, Renderer, Template, TemplateConnection, TemplateContext, TemplateErrorKind,
    Undefined, check,
};

fn renderer() -> Renderer {
    let context = TemplateContext {
        dag_id: "sales".to_owned(),
        task_id: "load".to_owned(),
        run_id: "manual__1".to_owned(),
        params: json!({"x": 5, "items": [1, 2]}),
        ..TemplateContext::default()
    };
    Renderer::new(context, Arc::new(NoLookups))
}

fn kind(template: &str) -> Option<TemplateErrorKind> {
    renderer().render_str(template).err().map(|error| error.kind)
}

/// Goal: no template hangs, fills the memory or ends the process. Method: one of each way to try.
#[test]
fn every_runaway_template_ends_in_a_limit() {
    let long = "x".repeat(100_000);
    for template in [
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}".to_owned(),
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}".to_owned(),
        "{% for i in range(1000) %}{{ 'x' * 100000 }}{% endfor %}".to_owned(),
        format!("{{% for i in range(100000) %}}{long}{{% endfor %}}"),
        format!("{{% set x %}}{{% for i in range(100000) %}}{long}{{% endfor %}}{{% endset %}}"),
        "{{ 'x' * 10 ** 12 }}".to_owned(),
        "{{ [0] * 10 ** 9 }}".to_owned(),
        "{{ 'x' | center(10 ** 12) }}".to_owned(),
        "{{ '%1000000000d' % 5 }}".to_owned(),
        "{{ '{:>1000000000}'.format(5) }}".to_owned(),
        "{{ 'ab' | replace('', 'x' * 9000000) }}".to_owned(),
        "{% set ns = namespace(x=[]) %}{% for i in range(500) %}{% set ns.x = [ns.x] %}{% endfor %}".to_owned(),
        "{% set ns = namespace(s='ab') %}{% for i in range(40) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}".to_owned(),
        "{% set l = [1] %}{% for i in range(40) %}{% do l.extend(l) %}{% endfor %}".to_owned(),
        "{% set ns = namespace(x=[1]) %}{% for i in range(40) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}"
            .to_owned(),
        format!("{{{{ {}1{} }}}}", "(".repeat(5000), ")".repeat(5000)),
        format!("{{{{ 1{} }}}}", " + 1".repeat(5000)),
        "{% if x %}".repeat(5000),
        format!("{{% if x %}}{}", "{% elif x %}".repeat(5000)),
        "x {{ 1 }}".repeat(200_000),
    ] {
        let shown: String = template.chars().take(80).collect();
        let found = kind(&template);
        let ended = matches!(found, Some(TemplateErrorKind::Limit | TemplateErrorKind::Syntax));
        assert!(ended, "{shown}: {found:?}");
    }
}

#[test]
fn a_range_is_no_longer_than_in_jinjas_sandbox() {
    assert_eq!(kind("{% for i in range(10 ** 9) %}{% endfor %}"), Some(TemplateErrorKind::Overflow));
    assert_eq!(kind("{{ range(100000) | length }}"), None);
}

#[test]
fn a_list_cannot_come_to_contain_itself() {
    assert_eq!(kind("{% set l = [] %}{% do l.append(l) %}"), Some(TemplateErrorKind::Value));
    assert_eq!(kind("{% set l = [] %}{% set m = [l] %}{% do l.append(m) %}"), Some(TemplateErrorKind::Value));
    assert_eq!(kind("{% set d = {} %}{% do d.update(x=d) %}"), Some(TemplateErrorKind::Value));
}

#[test]
fn deep_json_is_refused() {
    let mut value = json!("{{ run_id }}");
    for _ in 0..500 {
        value = json!([value]);
    }
    let error = renderer().render_value(&value).expect_err("the template fails");
    assert_eq!(error.kind, TemplateErrorKind::Limit);
}

#[test]
fn errors_name_the_template_the_line_the_fault_and_the_cure() {
    for (template, expected) in [
        (
            "a\n{{ dag_runn.conf }}",
            "template `a\n{{ dag_runn.conf }}`, line 2: unknown variable `dag_runn`; did you mean `dag_run`?",
        ),
        (
            "{{ region }}",
            "template `{{ region }}`, line 1: unknown variable `region`; \
             declare it as a user-defined macro, or guard it with `| default(..)`",
        ),
        (
            "{{ run_id | uper }}",
            "template `{{ run_id | uper }}`, line 1: no filter named `uper`; did you mean `upper`?",
        ),
        ("{{ 1 / 0 }}", "template `{{ 1 / 0 }}`, line 1: division by zero"),
        ("\n{{ run_id }", "template `\n{{ run_id }`, line 2: unexpected `}`"),
        (
            "{{ var.value.key }}",
            "template `{{ var.value.key }}`, line 1: the Variable `key` does not exist; create it first",
        ),
        (
            "{{ [].__class__ }}",
            "template `{{ [].__class__ }}`, line 1: access to attribute '__class__' of 'list' object is unsafe",
        ),
    ] {
        assert_eq!(renderer().render_str(template).expect_err("the template fails").to_string(), expected);
    }
}

#[test]
fn a_long_template_is_cut_in_its_error() {
    let template = format!("{{{{ nope }}}}{}", "x".repeat(10_000));
    assert!(renderer().render_str(&template).expect_err("the template fails").to_string().len() < 300);
}

#[test]
fn checking_finds_what_rendering_would_find() {
    for (template, sound) in [
        ("plain", true),
        ("{{ ds }} {% for x in params['items'] %}{{ x }}{{ loop.index }}{% endfor %}", true),
        ("{% set y = 1 %}{{ y }} {% macro m(a) %}{{ a }}{% endmacro %}{{ m(range(3)) }}", true),
        ("{{ mine(1) | my_filter }}", true),
        ("{{ maybe | default('x') }}", true),
        ("{% if maybe is defined %}{{ maybe }}{% endif %}", true),
        ("{{ nope }}", false),
        ("{{ ds | nope }}", false),
        ("{{ ds is nope }}", false),
        ("{{ ds", false),
        ("{% if ds %}", false),
        ("{% if false %}{{ ds | nope }}{% endif %}", false),
    ] {
        assert_eq!(check(template, &["mine"], &["my_filter"]).is_ok(), sound, "{template}");
    }
}

#[test]
fn user_defined_macros_and_filters_are_called() {
    let renderer = renderer()
        .with_value("region", &json!({"name": "eu"}))
        .with_macro("twice", |args| Ok(json!(args[0].as_i64().unwrap_or(0) * 2)))
        .with_macro("fails", |_| Err("no luck".to_owned()))
        .with_filter("wrap", |value, args| {
            Ok(json!(format!("{}{}", args[0].as_str().unwrap_or(""), value.as_str().unwrap_or(""))))
        });
    let text = renderer.render_str("{{ region.name }} {{ twice(params.x) }} {{ 'b' | wrap('a') }}");
    assert_eq!(text.expect("the template renders"), "eu 10 ab");
    let error = renderer.render_str("{{ fails() }}").expect_err("the template fails");
    assert_eq!((error.kind, error.what.as_str()), (TemplateErrorKind::Value, "fails(): no luck"));
    assert_eq!(
        renderer.render_str("{{ twice(x=1) }}").expect_err("the template fails").kind,
        TemplateErrorKind::Type
    );
}

#[test]
fn what_is_not_offered_says_so_and_what_is() {
    for (template, cure) in [
        ("{{ macros.yaml.dump({'a': 1}) }}", "macros.json.dumps"),
        ("{{ macros.yaml.safe_load('a: 1') }}", "macros.json.loads"),
        ("{{ macros.ds_format_locale(ds, '%Y-%m-%d', 'EEEE', 'fr') }}", "format in a task"),
    ] {
        let error = renderer().render_str(template).expect_err("it is not offered");
        assert_eq!(error.kind, TemplateErrorKind::Value, "{error}");
        assert!(error.what.contains("is not offered") && error.what.contains(cure), "{error}");
    }
}

struct Xcoms;

impl Lookups for Xcoms {
    fn variable(&self, _: &str) -> Option<String> {
        None
    }

    fn connection(&self, _: &str) -> Option<TemplateConnection> {
        None
    }

    fn xcom(&self, task_id: &str, key: &str, map_index: Option<i32>) -> Option<Json> {
        match (task_id, key, map_index) {
            ("extract", "return_value", None) => Some(json!({"rows": 3})),
            ("extract", "return_value", Some(index)) => Some(json!(index)),
            ("load", "path", None) => Some(json!("/tmp/x")),
            _ => None,
        }
    }
}

#[test]
fn xcoms_are_pulled_by_task_key_and_index() {
    let context = TemplateContext { task_id: "load".to_owned(), ..TemplateContext::default() };
    let renderer = Renderer::new(context, Arc::new(Xcoms));
    for (template, expected) in [
        ("{{ ti.xcom_pull('extract').rows }}", "3"),
        ("{{ task_instance.xcom_pull(task_ids='extract')['rows'] + 1 }}", "4"),
        ("{{ ti.xcom_pull(key='path') }}", "/tmp/x"),
        ("{{ ti.xcom_pull(task_ids=['extract', 'nope']) }}", "[{'rows': 3}]"),
        ("{{ ti.xcom_pull('extract', map_indexes=[2, 1]) }}", "[2, 1]"),
        ("{{ ti.xcom_pull('nope') }} {{ ti.xcom_pull('nope', default=7) }}", "None 7"),
    ] {
        assert_eq!(renderer.render_str(template).expect("the template renders"), expected, "{template}");
    }
}

#[test]
fn includes_come_from_the_given_source() {
    let renderer =
        renderer().with_includes(|name| (name == "part.sql").then(|| "x = {{ params.x + 1 }}".to_owned()));
    assert_eq!(
        renderer.render_str("where {% include 'part.sql' %}").expect("the template renders"),
        "where x = 6"
    );
    let error = renderer.render_str("{% include 'other.sql' %}").expect_err("the template fails");
    assert_eq!(error.kind, TemplateErrorKind::TemplateNotFound);
}

#[test]
fn a_run_without_dates_leaves_its_date_variables_undefined() {
    assert_eq!(kind("{{ ds }}"), Some(TemplateErrorKind::Undefined));
    assert_eq!(
        renderer().render_str("{{ task_instance_key_str }}").expect("the template renders"),
        "sales__load__manual__1"
    );
    let lenient = renderer().with_undefined(Undefined::Lenient);
    assert_eq!(lenient.render_str("[{{ ds }}]").expect("the template renders"), "[]");
}

#[test]
fn every_type_of_field_renders_shows_and_names_its_templates() {
    let renderer = renderer();
    let template = || "{{ params.x }}".to_owned();
    assert_eq!(Some(template()).render(&renderer).expect("the template renders"), Some("5".to_owned()));
    assert_eq!(vec![template(), "y".to_owned()].render(&renderer).expect("the template renders"), ["5", "y"]);
    assert_eq!(
        PathBuf::from("/tmp/{{ run_id }}").render(&renderer).expect("the template renders"),
        PathBuf::from("/tmp/manual__1")
    );
    let sorted = BTreeMap::from([("{{ k }}".to_owned(), template())]);
    assert_eq!(
        sorted.render(&renderer).expect("the template renders"),
        BTreeMap::from([("{{ k }}".to_owned(), "5".to_owned())])
    );
    let hashed = HashMap::from([("b".to_owned(), template()), ("a".to_owned(), "z".to_owned())]);
    assert_eq!(hashed.shown().to_string(), r#"{"a":"z","b":"{{ params.x }}"}"#);
    assert_eq!(hashed.sources(), ["z", "{{ params.x }}"]);
    let value = json!({"a": [template(), 1, null]});
    assert_eq!(
        Template::render(&value, &renderer).expect("the template renders"),
        json!({"a": ["5", 1, null]})
    );
    assert_eq!(value.sources(), ["{{ params.x }}"]);
    assert_eq!(None::<String>.shown(), Json::Null);
}

#[test]
fn text_without_tags_needs_no_engine_but_keeps_jinjas_line_ends() {
    for (template, expected) in
        [("a\r\nb\rc\n", "a\nb\nc"), ("a\n\n", "a\n"), ("a } b }}", "a } b }}"), ("", "")]
    {
        assert_eq!(renderer().render_str(template).expect("the template renders"), expected);
    }
}

/// Pieces of templates; any sequence of them must render or fail, never panic.
const PIECES: [&str; 60] = [
    "{{",
    "}}",
    "{%",
    "%}",
    "{#",
    "#}",
    "-",
    "+",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ",",
    ":",
    ".",
    "|",
    "~",
    "*",
    "**",
    "/",
    "//",
    "%",
    "==",
    "<",
    "in ",
    "not ",
    "is ",
    "if ",
    "else ",
    "for x in ",
    "endfor",
    "endif",
    "set x = ",
    "'é'",
    "'\\x4",
    "\"",
    "'%s'",
    "'{:>5}'",
    "1",
    "-1",
    "1e5",
    "0x",
    "10",
    "none",
    "true",
    "params",
    "params.items",
    "x",
    "ti",
    "macros",
    "macros.datetime(2024, 2, 30)",
    ".format(",
    "upper",
    "tojson",
    "range(",
    "日",
    "\n",
    " ",
];

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(2000))]

    #[test]
    fn no_text_makes_the_renderer_panic(pieces in proptest::collection::vec(0..PIECES.len(), 0..24)) {
        let template: String = pieces.iter().map(|piece| PIECES[*piece]).collect();
        let (renderer, inside) = (renderer(), format!("{{{{ {template} }}}}"));
        for text in [&template, &inside] {
            let _ = renderer.render_str(text);
            let _ = renderer.render_native(text);
            let _ = check(text, &[], &[]);
        }
    }

    #[test]
    fn no_date_format_makes_the_renderer_panic(text in "[%a-zA-Z0-9é:/. +-]{0,12}", format in "(%[-_^a-zA-Z%]|[a-zA-Zé\\[ ]){0,8}") {
        let renderer = renderer().with_value("text", &json!(text)).with_value("format", &json!(format));
        for template in [
            "{{ macros.datetime.strptime(text, format) }}",
            "{{ macros.datetime(2024, 12, 31, 23, 59, 59, 999999).strftime(format) }}",
            "{{ macros.dateutil.parser.parse(text) }}",
            "{{ macros.datetime.fromisoformat(text) }}",
            "{{ macros.dateutil.parser.parse('2024-01-05Z').astimezone('Europe/Paris').isoformat(format) }}",
            "{{ text.format(1) }} {{ format % 1 }} {{ '{:{}}'.format(1, format) }}",
        ] {
            let _ = renderer.render_str(template);
        }
    }
}
