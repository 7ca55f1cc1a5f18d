/* An ICE peer on libnice, ruled by lines.
 *
 *   nice_peer controlling|controlled ADDRESS [turn=udp|tcp:HOST:PORT:USER:PASSWORD] [only-relay]
 *
 * A colon in USER is written %3A.
 * It says   credentials U P | candidate SDP | gathered | state NAME | selected LOCAL REMOTE | data HEX
 * and obeys credentials U P | candidate SDP | gathered | send HEX; the end of its input ends it.
 * It signals its candidates as it finds them, and takes ours as they come.
 */
#include <nice/agent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const guint COMPONENT = 1;

static NiceAgent *agent;
static guint stream;
static GMainLoop *loop;

static const char *kind_of(const NiceCandidate *candidate)
{
	switch (candidate->type) {
	case NICE_CANDIDATE_TYPE_HOST:
		return "host";
	case NICE_CANDIDATE_TYPE_SERVER_REFLEXIVE:
		return "srflx";
	case NICE_CANDIDATE_TYPE_PEER_REFLEXIVE:
		return "prflx";
	default:
		return "relay";
	}
}

static void on_candidate(NiceAgent *a, NiceCandidate *candidate, gpointer unused)
{
	gchar *sdp = nice_agent_generate_local_candidate_sdp(a, candidate);

	printf("candidate %s\n", g_str_has_prefix(sdp, "a=") ? sdp + 2 : sdp);
	g_free(sdp);
	(void)unused;
}

static void on_gathered(NiceAgent *a, guint stream_id, gpointer unused)
{
	printf("gathered\n");
	(void)a, (void)stream_id, (void)unused;
}

static void on_state(NiceAgent *a, guint stream_id, guint component, guint state, gpointer unused)
{
	printf("state %s\n", nice_component_state_to_string(state));
	(void)a, (void)stream_id, (void)component, (void)unused;
}

static void on_selected(NiceAgent *a, guint stream_id, guint component, NiceCandidate *local,
			NiceCandidate *remote, gpointer unused)
{
	printf("selected %s %s\n", kind_of(local), kind_of(remote));
	(void)a, (void)stream_id, (void)component, (void)unused;
}

static void on_data(NiceAgent *a, guint stream_id, guint component, guint length, gchar *data,
		    gpointer unused)
{
	printf("data ");
	for (guint i = 0; i < length; i++)
		printf("%02x", (unsigned char)data[i]);
	printf("\n");
	(void)a, (void)stream_id, (void)component, (void)unused;
}

static void take_candidate(const char *sdp)
{
	gchar *line = g_strconcat("a=", sdp, NULL);
	NiceCandidate *candidate = nice_agent_parse_remote_candidate_sdp(agent, stream, line);
	GSList *list;

	g_free(line);
	if (candidate == NULL) {
		printf("cannot-parse %s\n", sdp);
		return;
	}
	list = g_slist_append(NULL, candidate);
	nice_agent_set_remote_candidates(agent, stream, COMPONENT, list);
	g_slist_free_full(list, (GDestroyNotify)nice_candidate_free);
}

static void send_hex(const char *hex)
{
	size_t length = strlen(hex) / 2;
	gchar *data = g_malloc(length + 1);
	unsigned int byte;

	for (size_t i = 0; i < length && sscanf(hex + 2 * i, "%2x", &byte) == 1; i++)
		data[i] = (gchar)byte;
	printf("sent %d\n", nice_agent_send(agent, stream, COMPONENT, (guint)length, data));
	g_free(data);
}

static gboolean on_line(GIOChannel *input, GIOCondition condition, gpointer unused)
{
	gchar *line = NULL, **words;

	(void)condition, (void)unused;
	if (g_io_channel_read_line(input, &line, NULL, NULL, NULL) != G_IO_STATUS_NORMAL) {
		g_main_loop_quit(loop);
		return FALSE;
	}
	words = g_strsplit(g_strchomp(line), " ", 2);
	if (g_str_equal(words[0], "candidate")) {
		take_candidate(words[1]);
	} else if (g_str_equal(words[0], "send")) {
		send_hex(words[1]);
	} else if (g_str_equal(words[0], "gathered")) {
		nice_agent_peer_candidate_gathering_done(agent, stream);
	} else if (g_str_equal(words[0], "credentials")) {
		gchar **pair = g_strsplit(words[1], " ", 2);

		nice_agent_set_remote_credentials(agent, stream, pair[0], pair[1]);
		g_strfreev(pair);
	}
	g_strfreev(words);
	g_free(line);
	return TRUE;
}

static void use_turn(const char *setting)
{
	gchar **part = g_strsplit(setting, ":", 5);
	gchar *user = g_uri_unescape_string(part[3], NULL);
	gboolean tcp = g_str_equal(part[0], "tcp");

	nice_agent_set_relay_info(agent, stream, COMPONENT, part[1], (guint)atoi(part[2]), user,
				  part[4], tcp ? NICE_RELAY_TYPE_TURN_TCP : NICE_RELAY_TYPE_TURN_UDP);
	g_free(user);
	g_strfreev(part);
}

int main(int argc, char **argv)
{
	NiceAddress address;
	gchar *username = NULL, *password = NULL;
	GIOChannel *input;

	if (argc < 3)
		return 2;
	setvbuf(stdout, NULL, _IOLBF, 0);
	loop = g_main_loop_new(NULL, FALSE);
	agent = nice_agent_new_full(NULL, NICE_COMPATIBILITY_RFC5245,
				    NICE_AGENT_OPTION_ICE_TRICKLE | NICE_AGENT_OPTION_REGULAR_NOMINATION);
	g_object_set(agent, "controlling-mode", g_str_equal(argv[1], "controlling"), "upnp", FALSE,
		     "ice-tcp", FALSE, NULL);
	nice_address_init(&address);
	nice_address_set_from_string(&address, argv[2]);
	nice_agent_add_local_address(agent, &address);
	stream = nice_agent_add_stream(agent, 1);
	nice_agent_set_stream_name(agent, stream, "application");
	for (int i = 3; i < argc; i++) {
		if (g_str_has_prefix(argv[i], "turn="))
			use_turn(argv[i] + 5);
		else if (g_str_equal(argv[i], "only-relay"))
			g_object_set(agent, "force-relay", TRUE, NULL);
	}
	g_signal_connect(agent, "new-candidate-full", G_CALLBACK(on_candidate), NULL);
	g_signal_connect(agent, "candidate-gathering-done", G_CALLBACK(on_gathered), NULL);
	g_signal_connect(agent, "component-state-changed", G_CALLBACK(on_state), NULL);
	g_signal_connect(agent, "new-selected-pair-full", G_CALLBACK(on_selected), NULL);
	nice_agent_attach_recv(agent, stream, COMPONENT, NULL, on_data, NULL);
	nice_agent_get_local_credentials(agent, stream, &username, &password);
	printf("credentials %s %s\n", username, password);
	nice_agent_gather_candidates(agent, stream);
	input = g_io_channel_unix_new(0);
	g_io_add_watch(input, G_IO_IN | G_IO_HUP, on_line, NULL);
	g_main_loop_run(loop);
	g_object_unref(agent);
	return 0;
}
