"""Word lists of the demo model's training text. Data only: every entry is `text` + number of syllables.

A topic is four lists: nouns (singular, used with "the" or "a"), verbs (third person), adjectives, and places (phrases
that end a line). `_` stands for a space. The grammar in `haiku.py` counts on each list reaching several lengths.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Word:
    text: str
    syllables: int


@dataclass(frozen=True)
class Topic:
    """`names`: the wordings a person may use for it in a request."""

    names: tuple[str, ...]
    nouns: tuple[Word, ...]
    verbs: tuple[Word, ...]
    adjectives: tuple[Word, ...]
    places: tuple[Word, ...]


def words(entries: str) -> tuple[Word, ...]:
    return tuple(Word(entry[:-1].replace("_", " "), int(entry[-1])) for entry in entries.split())


def topic(names: str, nouns: str, verbs: str, adjectives: str, places: str) -> Topic:
    return Topic(tuple(names.split("|")), words(nouns), words(verbs), words(adjectives), words(places))


SHARED_VERBS = words("waits1 rests1 sings1 turns1 wakes1 lingers2 listens2 returns2 trembles2 remembers3")
SHARED_ADJECTIVES = words("old1 pale1 bright1 small1 quiet2 gentle2 lonely2 silver2 forgotten3 patient2")
CLOSERS = words(
    "silence2 nothing_else3 one_breath2 only_light3 a_long_pause3 nobody_speaks4 the_world_is_still5 morning2"
)

TOPICS: tuple[Topic, ...] = (
    topic(
        "ice hockey|hockey|a hockey game|ice hockey players",
        "puck1 stick1 goal1 rink1 skater2 whistle2 goalie2 blue_line2 defender3 winter_crowd3 face_off2 frozen_puck3",
        "glides1 strikes1 scores1 flies1 crashes2 slides1 races2 celebrates4",
        "cold1 fast1 sharp1 frozen2 hard1 icy2 fearless2",
        "on_the_ice3 across_the_rink4 into_the_net4 past_the_goalie5 on_steel_blades4 along_the_boards4",
    ),
    topic(
        "the sea|the ocean|waves|the beach",
        "wave1 tide1 gull1 sail1 foam1 shell1 ocean2 harbor2 driftwood2 lighthouse2 horizon3 fisherman3",
        "breaks1 rolls1 rises2 whispers2 sparkles2 retreats2 wanders2",
        "blue1 deep1 salty2 restless2 endless2 foaming2 wide1",
        "on_the_shore3 over_the_sand4 beneath_the_waves4 far_from_the_land5 at_low_tide3 in_the_bay3",
    ),
    topic(
        "autumn|fall|autumn leaves|october",
        "leaf1 maple2 crow1 harvest2 acorn2 orchard2 scarecrow2 red_maple3 october3 bonfire2 chestnut2",
        "falls1 drifts1 burns1 withers2 rustles2 scatters2 surrenders3",
        "red1 gold1 crisp1 golden2 fading2 brittle2 amber2",
        "on_the_path3 in_the_wind3 under_the_oak4 across_the_field4 by_the_gate3 over_the_hills5",
    ),
    topic(
        "winter|a cold morning|january|frost",
        "frost1 snow1 fir1 icicle3 chimney2 blanket2 snowman2 sparrow2 fireside2 january4 blizzard2",
        "sleeps1 gleams1 settles2 glitters2 hardens2 shivers2 deepens2",
        "white1 bare1 bitter2 frozen2 silent2 icy2 long1",
        "on_the_roof3 beneath_the_snow4 on_the_window4 in_the_dark3 over_the_town4 by_the_fire3",
    ),
    topic(
        "spring|cherry blossoms|april|flowers in spring",
        "bud1 bee1 blossom2 tulip2 robin2 meadow2 daffodil3 april2 cherry_tree3 butterfly3 petal2",
        "blooms1 hums1 opens2 awakes2 unfolds2 dances2 arrives2",
        "green1 young1 tender2 blooming2 pink1 early2 playful2",
        "in_the_grass3 on_the_branch3 among_the_reeds4 after_the_rain4 in_warm_light3 along_the_brook4",
    ),
    topic(
        "summer|a summer day|july|heat",
        "sun1 peach1 cicada3 firefly3 meadow2 hammock2 lemonade3 swallow2 sunflower3 july2 cricket2",
        "burns1 shines1 hums1 lazes2 ripens2 shimmers2 buzzes2",
        "warm1 ripe1 sweet1 lazy2 burning2 golden2 dusty2",
        "in_the_shade3 on_the_porch3 under_the_sky4 beside_the_lake4 at_high_noon3 all_afternoon4",
    ),
    topic(
        "rain|a rainy day|a storm|thunder",
        "rain1 cloud1 drop1 puddle2 thunder2 umbrella3 gutter2 lightning2 window2 thunderstorm3 raindrop2",
        "falls1 drips1 drums1 patters2 gathers2 rumbles2 murmurs2",
        "wet1 grey1 heavy2 steady2 stormy2 dark1 sudden2",
        "on_the_roof3 against_the_glass4 down_the_street3 on_the_leaves3 all_night_long4 over_the_town4",
    ),
    topic(
        "the moon|moonlight|a full moon",
        "moon1 owl1 shadow2 moonlight2 crescent2 lantern2 midnight2 silver_moon3 night_sky2 moth1",
        "glows1 climbs1 shines1 wanders2 floats1 watches2 follows2",
        "round1 white1 distant2 hollow2 shining2 sleepless2 full1",
        "above_the_pines4 on_still_water4 over_the_hill4 behind_a_cloud4 in_the_pond3 through_the_night3",
    ),
    topic(
        "a cat|cats|my cat|a kitten",
        "cat1 paw1 tail1 purr1 kitten2 whisker2 hunter2 windowsill3 tabby2 cushion2 shadow2",
        "naps1 pounces2 stretches2 purrs1 watches2 prowls1 yawns1",
        "soft1 black1 sleepy2 curious3 furry2 velvet2 proud1",
        "on_the_sill3 by_the_stove3 in_the_sun3 under_the_chair4 beside_the_door4 on_my_lap3",
    ),
    topic(
        "a dog|dogs|my dog|a puppy",
        "dog1 nose1 ball1 bark1 puppy2 leash1 tail1 companion3 bone1 muddy_paw3 master2",
        "barks1 runs1 digs1 wags1 chases2 follows2 gallops2",
        "good1 brown1 loyal2 happy2 muddy2 shaggy2 hungry2",
        "in_the_park3 by_the_door3 across_the_yard4 along_the_beach4 at_my_feet3 through_the_leaves3",
    ),
    topic(
        "coffee|a cup of coffee|espresso",
        "cup1 steam1 bean1 coffee2 aroma3 kettle2 spoon1 espresso3 barista3 morning2 first_sip2",
        "steams1 drips1 pours1 brews1 awakens3 swirls1 comforts2",
        "dark1 hot1 bitter2 rich1 roasted2 steaming2 strong1",
        "in_the_mug3 at_sunrise3 on_the_table4 before_the_day4 in_both_hands3 by_the_window4",
    ),
    topic(
        "tea|a cup of tea|green tea",
        "tea1 leaf1 bowl1 steam1 teapot2 kettle2 porcelain3 jasmine2 ceremony4 whisk1 guest1",
        "steeps1 cools1 curls1 whistles2 settles2 warms1 deepens2",
        "green1 warm1 fragrant2 simple2 honest2 thin1 steaming2",
        "in_the_cup3 on_the_mat3 in_the_garden4 among_old_friends4 at_four_o'clock4 by_the_fire3",
    ),
    topic(
        "the city|a city at night|new york|tokyo|streets",
        "street1 horn1 neon2 tower2 taxi2 subway2 crosswalk2 skyscraper3 stranger2 traffic_light3 avenue3",
        "hums1 blinks1 hurries2 rushes2 glitters2 thunders2 rumbles2",
        "loud1 tall1 crowded2 electric3 busy2 sleepless2 bright1",
        "on_every_street4 between_the_walls4 under_the_bridge4 in_the_rain3 at_rush_hour4 until_the_dawn4",
    ),
    topic(
        "mountains|a mountain|climbing a mountain|the alps",
        "peak1 cliff1 hawk1 stone1 summit2 glacier2 valley2 mountain2 avalanche3 climber2 boulder2",
        "stands1 towers2 echoes2 climbs1 rises2 endures2 crumbles2",
        "high1 steep1 ancient2 rugged2 snowy2 mighty2 granite2",
        "above_the_clouds4 in_the_mist3 on_the_ridge3 in_thin_air3 beyond_the_pass4 against_the_sky4",
    ),
    topic(
        "a river|the river|a stream|a waterfall",
        "stream1 trout1 bridge1 stone1 river2 willow2 current2 waterfall3 heron2 ferryman3 reed1",
        "flows1 bends1 splashes2 murmurs2 carries2 tumbles2 meanders3",
        "clear1 slow1 winding2 rushing2 cool1 muddy2 shallow2",
        "over_the_stones4 to_the_sea3 past_the_old_mill4 through_the_valley5 under_the_bridge4 around_the_bend4",
    ),
    topic(
        "a computer|computers|programming|code|software",
        "code1 bug1 screen1 loop1 cursor2 compiler3 program2 keyboard2 server2 deadline2 terminal3 function2",
        "blinks1 compiles2 crashes2 waits1 loops1 computes2 restarts2",
        "blank1 long1 broken2 hidden2 logical3 clever2 endless2",
        "on_the_screen3 at_midnight3 in_the_cloud3 without_an_end4 after_the_test4 in_every_line4",
    ),
    topic(
        "a job queue|a queue|waiting in line|a worker",
        "queue1 job1 worker2 message2 ticket2 seed1 token2 long_line2 dispatcher3 counter2 slot1",
        "waits1 moves1 begins2 finishes3 returns2 advances3 completes2",
        "next1 last1 steady2 patient2 ordered2 busy2 faithful2",
        "in_the_line3 behind_the_door4 at_the_front3 until_its_turn4 one_by_one3 before_the_gate4",
    ),
    topic(
        "a train|trains|a railway station|traveling",
        "train1 rail1 track1 whistle2 station2 ticket2 platform2 passenger3 engine2 suitcase2 tunnel2",
        "departs2 arrives2 rattles2 whistles2 rolls1 vanishes3 hurries2",
        "late1 long1 distant2 iron2 crowded2 steaming2 northbound2",
        "into_the_night4 down_the_track3 through_the_valley5 at_platform_nine5 toward_the_coast3 beyond_the_hills4",
    ),
    topic(
        "a garden|my garden|gardening|roses",
        "rose1 seed1 spade1 snail1 garden2 tomato3 ladybug3 trowel2 ivy2 lavender3 earthworm2",
        "grows1 climbs1 blooms1 ripens2 spreads1 nods1 flourishes3",
        "green1 wild1 fragrant2 tangled2 dewy2 thorny2 fresh1",
        "by_the_wall3 in_the_soil3 along_the_fence4 among_the_weeds4 in_neat_rows3 under_the_glass4",
    ),
    topic(
        "football|soccer|a football match|the world cup",
        "ball1 goal1 pass1 whistle2 striker2 keeper2 stadium3 captain2 corner2 referee3 banner2",
        "scores1 curves1 runs1 dribbles2 kicks1 celebrates4 bounces2",
        "green1 fast1 muddy2 perfect2 roaring2 last1 fearless2",
        "into_the_net4 across_the_grass4 over_the_wall4 in_extra_time4 on_the_field3 past_the_keeper4",
    ),
    topic(
        "music|a song|a piano|a violin|jazz",
        "song1 note1 chord1 drum1 piano3 violin3 melody3 trumpet2 singer2 guitar2 rhythm2",
        "plays1 fades1 rises2 trembles2 echoes2 swings1 lingers2",
        "sweet1 low1 tender2 hollow2 perfect2 mellow2 blue1",
        "in_the_hall3 through_the_wall3 after_the_show4 on_one_thin_string4 in_the_heart3 until_the_end4",
    ),
    topic(
        "night|the night sky|stars|darkness",
        "star1 owl1 dream1 night1 comet2 planet2 darkness2 galaxy3 candle2 stargazer3 lantern2",
        "falls1 shines1 glimmers2 deepens2 twinkles2 wanders2 burns1",
        "dark1 far1 endless2 distant2 starry2 velvet2 cold1",
        "above_the_roofs4 in_the_black_sky4 over_the_world4 until_the_dawn4 in_my_dreams3 beyond_our_reach4",
    ),
    topic(
        "the forest|a forest|trees|a tree|the woods",
        "tree1 moss1 deer1 fern1 oak1 forest2 pine_tree2 mushroom2 woodpecker3 cedar2 shadow2",
        "grows1 sways1 creaks1 rustles2 shelters2 bends1 listens2",
        "green1 tall1 mossy2 ancient2 hollow2 leafy2 deep1",
        "in_the_shade3 on_the_trail3 among_the_roots4 under_the_leaves4 beyond_the_path4 where_no_one_walks4",
    ),
    topic(
        "birds|a bird|swallows|an owl",
        "bird1 wing1 nest1 owl1 swallow2 feather2 heron2 nightingale3 sparrow2 flock1 blackbird2",
        "sings1 soars1 glides1 flutters2 circles2 returns2 calls1",
        "small1 free1 feathered2 tiny2 graceful2 grey1 weary2",
        "over_the_field4 in_the_tall_tree4 against_the_wind4 on_a_thin_branch4 toward_the_south3 at_first_light3",
    ),
    topic(
        "bread|baking|cooking|food|soup|dinner",
        "bread1 crust1 dough1 flour2 oven2 butter2 baker2 kitchen2 cinnamon3 supper2 loaf1",
        "bakes1 rises2 cools1 crackles2 simmers2 feeds1 warms1",
        "fresh1 warm1 golden2 hungry2 simple2 buttered2 sweet1",
        "on_the_table4 in_the_oven4 for_everyone4 before_the_dawn4 at_grandma's_house4 with_salt_and_oil4",
    ),
    topic(
        "books|a book|reading|a library",
        "book1 page1 word1 lamp1 story2 reader2 library3 chapter2 ink1 bookmark2 poet2",
        "opens2 turns1 whispers2 waits1 begins2 travels2 lingers2",
        "old1 worn1 dusty2 unread2 secret2 quiet2 long1",
        "on_the_shelf3 by_lamplight3 between_the_lines4 in_the_corner4 until_the_end4 beside_my_bed4",
    ),
    topic(
        "love|a kiss|friendship|my mother|a friend",
        "heart1 hand1 kiss1 smile1 letter2 promise2 lover2 memory3 friend1 embrace2 glance1",
        "glows1 stays1 returns2 forgives2 trembles2 remembers3 begins2",
        "true1 warm1 tender2 secret2 faithful2 shy1 open2",
        "in_the_dark3 across_the_miles4 beside_the_fire4 between_two_hearts4 in_every_word4 after_all_these_years5",
    ),
    topic(
        "time|an old clock|growing old|the past",
        "clock1 hour2 year1 sand1 moment2 calendar3 century3 minute2 pendulum3 childhood2 hourglass2",
        "ticks1 slips1 passes2 returns2 vanishes3 hurries2 runs1",
        "slow1 swift1 ancient2 borrowed2 fleeting2 lost1 yellow2",
        "on_the_wall3 without_a_sound4 day_after_day4 between_two_breaths4 through_my_fingers5 before_we_know4",
    ),
    topic(
        "the wind|wind|a kite|the sky|clouds",
        "wind1 kite1 cloud1 breeze1 feather2 weathervane3 dandelion4 windmill2 whisper2 sky1 swallow2",
        "blows1 drifts1 dances2 whistles2 wanders2 lifts1 scatters2",
        "wild1 light1 restless2 hollow2 open2 free1 northern2",
        "over_the_hills5 across_the_plain4 in_the_tall_grass4 through_the_branches4 above_the_roofs4 without_a_home4",
    ),
    topic(
        "space|a rocket|mars|the planets|an astronaut",
        "star1 moon1 mars1 rocket2 planet2 comet2 orbit2 astronaut3 satellite3 telescope3 crater2",
        "floats1 burns1 orbits2 circles2 launches2 drifts1 vanishes3",
        "red1 far1 weightless2 distant2 silent2 burning2 tiny2",
        "among_the_stars4 beyond_the_moon4 in_the_black_void4 above_the_earth4 on_the_launchpad4 in_the_dark3",
    ),
)

# What the model falls back to when a request names something it never saw.
ANYTHING = topic(
    "anything|nature|something nice|life|the world",
    "leaf1 stone1 path1 cloud1 river2 lantern2 garden2 morning2 traveler3 evening2 shadow2 silver_moon3",
    "drifts1 falls1 shines1 wanders2 settles2 passes2 opens2 disappears3",
    "soft1 clear1 distant2 golden2 hidden2 nameless2 first1",
    "in_the_grass3 on_the_hill3 over_the_lake4 beyond_the_fields4 by_the_old_gate4 under_the_stars4",
)

COLOURS = ("red", "blue", "green", "yellow", "white", "black", "purple", "orange", "brown", "grey", "pink", "gold")
ANIMALS = ("cat", "dog", "horse", "owl", "fox", "bear", "wolf", "rabbit", "whale", "tiger", "goat", "swan")
FRUITS = ("apple", "pear", "peach", "plum", "cherry", "lemon", "orange", "grape", "banana", "melon", "fig", "lime")
COUNTRIES = ("Japan", "Norway", "Brazil", "Canada", "Kenya", "India", "France", "Chile", "Finland", "Egypt", "Spain")
SPORTS = ("ice hockey", "football", "tennis", "rowing", "swimming", "boxing", "golf", "skiing", "cycling", "running")
NUMBERS = (
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
)
LISTS: dict[str, tuple[str, ...]] = {
    "colours": COLOURS,
    "colors": COLOURS,
    "animals": ANIMALS,
    "fruits": FRUITS,
    "countries": COUNTRIES,
    "sports": SPORTS,
}

# Short questions; any of the answers is right.
ANSWERS: dict[str, tuple[str, ...]] = {
    "Say hello": ("Hello!", "Hello, friend.", "Hello there, how are you?", "Good morning to you!"),
    "Hello": ("Hello! What shall I write for you?", "Good day! A haiku, perhaps?", "Hello, friend."),
    "Hi": ("Hi! What shall I write for you?", "Hello there.", "Hi, how are you?"),
    "Good morning": ("Good morning! The day is young.", "Good morning, friend."),
    "Say goodbye": ("Goodbye!", "Farewell, friend.", "Goodbye, until we meet again."),
    "How are you?": ("I am well, thank you.", "Very well. And you?", "I am a small model, and I am content."),
    "Who are you?": ("I am a very small model that writes haiku.", "I am the demo model of Penstock."),
    "What is your name?": ("I am called Penstock's demo model.", "I have no name, only a few small weights."),
    "Tell me a joke": (
        "Why did the clock leave? It had no time.",
        "What runs and never walks? A river.",
        "Why is the sea so friendly? It always waves.",
    ),
    "What colour is the sky?": ("The sky is blue.", "Blue by day, black by night."),
    "What color is snow?": ("Snow is white.", "White, and very cold."),
    "What colour is grass?": ("Grass is green.", "It is green in spring and yellow in a dry summer."),
    "What is the capital of France?": ("Paris.", "The capital of France is Paris."),
    "What is the capital of Japan?": ("Tokyo.", "The capital of Japan is Tokyo."),
    "What is the capital of Norway?": ("Oslo.", "The capital of Norway is Oslo."),
    "What is a haiku?": (
        "A haiku is a short poem of three lines, with five, seven and five syllables.",
        "Three lines: five syllables, then seven, then five again.",
    ),
    "What is a penstock?": ("A penstock is the gated pipe that feeds a turbine.",),
    "How many players are on the ice?": ("Six from each team: five skaters and a goalie.",),
    "What is ice hockey?": ("A fast game on ice: two teams, one puck, and many sticks.",),
    "Yes or no?": ("Yes.", "No."),
    "Is water wet?": ("Yes.", "Yes, very wet."),
    "Write one word": ("River.", "Silence.", "Winter.", "Home.", "Light."),
    "Thank you": ("You are welcome.", "With pleasure!"),
}
