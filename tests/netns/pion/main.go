// An ICE peer on pion, ruled by the lines that nice_peer.c explains.
//
//	pion controlling|controlled ADDRESS [turn=udp|tcp:HOST:PORT:USER:PASSWORD] [only-relay]
package main

import (
	"bufio"
	"context"
	"encoding/hex"
	"fmt"
	"log"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/pion/ice/v4"
	"github.com/pion/stun/v4"
)

var output sync.Mutex

func say(format string, words ...any) {
	output.Lock()
	defer output.Unlock()
	fmt.Printf(format+"\n", words...)
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func turnServer(setting string) *stun.URI {
	part := strings.SplitN(setting, ":", 5)
	port, err := strconv.Atoi(part[2])
	must(err)
	user, err := url.QueryUnescape(part[3])
	must(err)
	proto := stun.ProtoTypeUDP
	if part[0] == "tcp" {
		proto = stun.ProtoTypeTCP
	}
	return &stun.URI{
		Scheme: stun.SchemeTypeTURN, Proto: proto,
		Host: part[1], Port: port, Username: user, Password: part[4],
	}
}

func config(address string, settings []string) *ice.AgentConfig {
	config := &ice.AgentConfig{
		NetworkTypes:     []ice.NetworkType{ice.NetworkTypeUDP4},
		MulticastDNSMode: ice.MulticastDNSModeDisabled,
		IPFilter:         func(ip net.IP) bool { return ip.Equal(net.ParseIP(address)) },
	}
	for _, setting := range settings {
		if turn, ok := strings.CutPrefix(setting, "turn="); ok {
			config.Urls = append(config.Urls, turnServer(turn))
		} else if setting == "only-relay" {
			config.CandidateTypes = []ice.CandidateType{ice.CandidateTypeRelay}
		}
	}
	return config
}

func listen(agent *ice.Agent) {
	must(agent.OnCandidate(func(candidate ice.Candidate) {
		if candidate == nil {
			say("gathered")
		} else {
			say("candidate candidate:%s", candidate.Marshal())
		}
	}))
	must(agent.OnConnectionStateChange(func(state ice.ConnectionState) {
		say("state %s", strings.ToLower(state.String()))
	}))
	must(agent.OnSelectedCandidatePairChange(func(local, remote ice.Candidate) {
		say("selected %s %s", local.Type(), remote.Type())
	}))
}

// connect gives the connection once ICE has found one, and says what comes over it.
func connect(agent *ice.Agent, controlling bool, ufrag, password string, connected chan<- *ice.Conn) {
	join := agent.Accept
	if controlling {
		join = agent.Dial
	}
	conn, err := join(context.Background(), ufrag, password)
	must(err)
	connected <- conn
	buffer := make([]byte, 2048)
	for {
		n, err := conn.Read(buffer)
		if err != nil {
			return
		}
		say("data %s", hex.EncodeToString(buffer[:n]))
	}
}

func obey(agent *ice.Agent, controlling bool) {
	connected := make(chan *ice.Conn, 1)
	var conn *ice.Conn
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		word, rest, _ := strings.Cut(lines.Text(), " ")
		switch word {
		case "credentials":
			ufrag, password, _ := strings.Cut(rest, " ")
			go connect(agent, controlling, ufrag, password, connected)
		case "candidate":
			candidate, err := ice.UnmarshalCandidate(strings.TrimPrefix(rest, "candidate:"))
			if err != nil {
				say("cannot-parse %s: %v", rest, err)
				continue
			}
			must(agent.AddRemoteCandidate(candidate))
		case "send":
			payload, err := hex.DecodeString(rest)
			must(err)
			if conn == nil {
				conn = <-connected
			}
			_, err = conn.Write(payload)
			must(err)
		}
	}
}

func main() {
	controlling := os.Args[1] == "controlling"
	agent, err := ice.NewAgent(config(os.Args[2], os.Args[3:]))
	must(err)
	listen(agent)
	ufrag, password, err := agent.GetLocalUserCredentials()
	must(err)
	say("credentials %s %s", ufrag, password)
	must(agent.GatherCandidates())
	obey(agent, controlling)
}
