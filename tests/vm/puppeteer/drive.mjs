// The real Puppeteer drives a browser of a sandbox: `node drive.mjs CDP_URL SITE`, and what came of it as JSON.
import puppeteer from "puppeteer-core";

const [browserWSEndpoint, site] = process.argv.slice(2);
const patience = { timeout: 90_000 };
const browser = await puppeteer.connect({ browserWSEndpoint, defaultViewport: null, protocolTimeout: 90_000 });
const page = await browser.newPage();
page.setDefaultTimeout(patience.timeout);
await page.goto(site, patience);
const title = await page.title();
await page.click("button");
const clicked = await page.$eval("button", (button) => button.textContent);
const png = await page.screenshot({ encoding: "base64" });
const pdf = Buffer.from(await page.pdf(patience)).toString("base64");
await browser.disconnect();
console.log(JSON.stringify({ title, clicked, png, pdf }));
