//! How the page looks: in light and dark, on a phone, in an outage. FOREBAY_SCREENSHOTS=docs/images renews the pictures.

use serde_json::{Value, json};

use crate::actions::with_dead_letters;
use crate::driver::Browser;
use crate::outages::traffic;
use crate::page::loaded;
use crate::support::mariadb::MariaDb;

/// The least contrast of text on the page that is seen (WCAG 2.1, 1.4.3), with its text.
const LEAST_CONTRAST: &str = r#"
const luminance = (c) => {
  const [r, g, b] = c.map((v) => { v /= 255; return v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; });
  return .2126 * r + .7152 * g + .0722 * b;
};
const rgba = (text) => { const n = text.match(/[\d.]+/g).map(Number); return [n.slice(0, 3), n[3] ?? 1]; };
const ground = (e) => {
  const [colour, alpha] = rgba(getComputedStyle(e).backgroundColor);
  return alpha === 1 || e.parentElement === null ? colour : ground(e.parentElement);
};
let least = [99, ''];
for (const e of document.querySelectorAll('body *')) {
  const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
  if (!own || !e.checkVisibility() || e.disabled || e.closest('.u-hz')) continue;
  const [a, b] = [luminance(rgba(getComputedStyle(e).color)[0]), luminance(ground(e))].sort((x, y) => y - x);
  const contrast = (a + .05) / (b + .05);
  if (contrast < least[0]) least = [contrast, e.textContent.slice(0, 40)];
}
return least;
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_is_readable_in_both_themes_and_on_a_phone() {
    let mut mariadb = MariaDb::start().await;
    let (mut node, browser) = (with_dead_letters(&mariadb, 3).await, Browser::start().await);
    let traffic = traffic(&node);
    browser.prefer("light").await;
    browser.open(node.admin(), "").await;
    loaded(&browser).await;
    settled(&browser).await;
    contrast(&browser, "light").await;
    browser.picture("dashboard-light").await;
    // The theme of the page wins over that of the system.
    browser.click("#theme").await;
    browser.click("#theme").await;
    browser.shows("#theme", "Theme: dark").await;
    contrast(&browser, "dark").await;
    browser.picture("dashboard-dark").await;
    browser.click("#theme").await;
    fits(&browser, 360).await;
    browser.picture("dashboard-phone").await;
    browser.open(node.admin(), "#/id/sensor-7").await;
    browser.shows("#stream dl", "Backlog").await;
    fits(&browser, 360).await;
    browser.resize(1280, 900).await;
    browser.open(node.admin(), "#/").await;
    mariadb.kill();
    browser.shows("#verdict", "The sink is down").await;
    settled(&browser).await;
    contrast(&browser, "an outage").await;
    browser.picture("dashboard-outage").await;
    browser.open(node.admin(), "#/id/sensor-7").await;
    browser.shows("#stream tbody", r#"{"n":"#).await;
    contrast(&browser, "an id").await;
    browser.picture("dashboard-id").await;
    browser.open(node.admin(), "#/dead").await;
    browser.press("meter-7~0~1").await;
    browser.shows("#ask pre", "kwh").await;
    browser.picture("dashboard-dead").await;
    browser.press("Close").await;
    fits(&browser, 360).await;
    browser.picture("dashboard-dead-phone").await;
    traffic.abort();
    node.kill();
    browser.shows("#gone", "has not answered since").await;
    browser.picture("dashboard-gone-phone").await;
}

/// Waits until the charts have something to show, where a picture is taken.
async fn settled(browser: &Browser) {
    if std::env::var_os("FOREBAY_SCREENSHOTS").is_some() {
        tokio::time::sleep(std::time::Duration::from_secs(40)).await;
    }
    browser.shows("#chart-rates .u-legend", "stored").await;
}

async fn contrast(browser: &Browser, what: &str) {
    let least = browser.script(LEAST_CONTRAST).await;
    println!("{what}: the least contrast is {least}");
    assert!(least[0].as_f64().is_some_and(|contrast| contrast >= 4.5), "{what}: {least}");
}

/// Nothing is wider than a phone, but tables that scroll by themselves.
async fn fits(browser: &Browser, width: u32) {
    browser.resize(width, 800).await;
    let size: Value = browser.script("return [document.documentElement.scrollWidth, innerWidth]").await;
    assert_eq!(size, json!([width, width]));
}
