"""Languages by tag: their English names, and their share of the web's text."""

from __future__ import annotations

_MC4 = """
af Afrikaans 0.01974382519794401, am Amharic 0.003251616352426345, ar Arabic 1.0310711629267721,
az Azerbaijani 0.08006423596040216, be Belarusian 0.02405042974167787, bg Bulgarian 0.36256966525862144,
bn Bangla 0.16932799125319595, ca Catalan 0.21678128203354266, ceb Cebuano 0.004630439079666076, cs Czech 0.9173945124991305,
cy Welsh 0.011894768815091324, da Danish 0.41134009652851106, de German 6.088564321318315, el Greek 0.7647814151253215,
en English 43.84274322288712, eo Esperanto 0.006246857191850909, es Spanish 6.593922868862283, et Estonian 0.11600277671642918,
eu Basque 0.02316416159631424, fa Persian 0.9061401861983142, fi Finnish 0.4104814298183851, fil Filipino 0.025997864339004244,
fr French 5.065605192327664, ga Irish 0.006819026580257076, gd Scottish_Gaelic 0.002244214150678123,
gl Galician 0.04195702534553548, gu Gujarati 0.01441063684898361, ha Hausa 0.004048232805718929, hi Hindi 0.2977135190076239,
ht Haitian 0.0025912338922100043, hu Hungarian 0.6317185871878461, hy Armenian 0.04319238752210946,
id Indonesian 0.21661546153231062, ig Igbo 0.0012332209743252396, is Icelandic 0.035009905801585396,
it Italian 2.9852609968497417, iw former_Hebrew 0.19636399296789392, ja Japanese 0.9504488872823865,
jv Javanese 0.002441963100025532, ka Georgian 0.04156171703245643, kk Kazakh 0.03815315724645429, km Khmer 0.015435927011184868,
kn Kannada 0.021372376789538385, ko Korean 0.26804610240226684, ku Kurdish 0.00444998702973429, ky Kyrgyz 0.013365830520452667,
lb Luxembourgish 0.009489551868240827, lo Lao 0.0033747577859191314, lt Lithuanian 0.20335249793655796,
lv Latvian 0.11020919642770399, mg Malagasy 0.002936580819485055, mi Maori 0.0016521382726156783,
mk Macedonian 0.04014427460007402, ml Malayalam 0.040198418021520084, mn Mongolian 0.03286870355284287,
mr Marathi 0.05080447303733959, ms Malay 0.05228142304888498, mt Maltese 0.01236980345565089, my Burmese 0.013920513423827437,
ne Nepali 0.052185247381212295, nl Dutch 1.5209163321594643, no Norwegian 0.3417524286083547, ny Nyanja 0.0012819556296742231,
pa Punjabi 0.008134271213642219, pl Polish 1.9927742538369295, ps Pashto 0.005546171060140008, pt Portuguese 2.7478980104132935,
ro Romanian 0.7416131941664106, ru Russian 11.30893826638371, sd Sindhi 0.0023512519589251584, si Sinhala 0.009436066420402445,
sk Slovak 0.29799791973547507, sl Slovenian 0.13808396951496665, sm Samoan 0.0011389077065251587, sn Shona 0.00139383344717102,
so Somali 0.013026829135258525, sq Albanian 0.0783275536552463, sr Serbian 0.053253673847049675,
st Southern_Sotho 0.0011148749417020328, su Sundanese 0.0017096384746704515, sv Swedish 0.7060202568358447,
sw Swahili 0.014268079618016549, ta Tamil 0.06434238038434485, te Telugu 0.022692595257313836, tg Tajik 0.017434114793063466,
th Thai 0.3124951414503922, tr Turkish 1.4794698831813984, uk Ukrainian 0.6262971188545052, ur Urdu 0.038279320897704416,
uz Uzbek 0.013199653152179166, vi Vietnamese 1.4795213835563188, xh Xhosa 0.0013631428816057104,
yi Yiddish 0.0019350000113506024, yo Yoruba 0.0009667305111171593, zh Chinese 2.3961001426070587, zu Zulu 0.0029133621576002537
"""
"""Tag, name and per cent of mC4's documents (Xue et al., 2021, 2010.11934), as mBLIP was trained with them: Hebrew's and Norwegian's tags
and some names are old ones."""
_ALSO = {"he": ("Hebrew", "iw"), "nb": ("Norwegian", "no"), "tl": ("Filipino", "fil")}
"""Other tags of the same languages."""

_entries = [entry.split() for entry in _MC4.replace("\n", " ").split(", ")]

NAMES: dict[str, str] = {tag: name.replace("_", " ") for tag, name, _ in _entries} | {
    tag: name for tag, (name, _) in _ALSO.items()
}
"""What a language is called."""
_shares = {tag: float(share) for tag, _, share in _entries}
MC4_SHARES: dict[str, float] = _shares | {tag: _shares[old] for tag, (_, old) in _ALSO.items()}
"""Per cent of mC4's documents in each of 96 languages; those with two tags have it under both."""
